"""The figures of a sweep's page, drawn from its facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distillkit.report.drawing import SIZE, Drawing, Look, Plan, Theme, draw_all, legend, looks, short, strips
from distillkit.report.figures import HELD_OUT
from distillkit.sweeps import search_figures
from distillkit.sweeps.results import MAIN
from distillkit.sweeps.tables import arm_label, figure_label, figure_text, is_share, value_text

SECTIONS = ("arms", "effects", "interactions", "search", "curves")
NAMED = 8
"""Most arms that a figure of curves names; of more the baseline and the lowest, the others are faint."""
_SHORT, _LONG = 16, 32
"""Characters of a name beside which there is room in a figure of the usual width, and at most."""
_WIDE = 44
"""Characters that have room below a figure of the usual width."""
_TICKS = [1, 2, 2.5, 5, 10]


def draw(facts: Mapping[str, Any]) -> list[Drawing]:
    """Draws what the facts hold figures for.

    Args:
        facts: of `results.gather`, or as read from sweep_results.json.

    Returns:
        Drawings by section; those without data are left out.
    """
    return draw_all(_plan(facts))


def _plan(facts: Mapping[str, Any]) -> Iterator[Plan]:
    if facts["search"] is None:
        for figure in facts["metrics"]:
            names = [name for name, group in facts["groups"].items() if figure in group["figures"]]
            if len(names) > 1:
                wide = 1.4 if max(map(len, names)) > _SHORT else 0.0
                size = (SIZE[0] + wide, 0.95 + 0.24 * len(names))
                paint = partial(_paint_arms, facts, figure, names)
                yield Plan("arms", f"arms_{_slug(figure)}", figure_label(figure), size, paint)
    else:
        yield from search_figures.plans(facts["search"])
    for key, found in facts["effects"].items():
        if MAIN in found:
            yield Plan("effects", f"effect_{_slug(key)}", key, SIZE, partial(_paint_effect, key, found[MAIN]))
    for pair in facts["interactions"]:
        one, other = pair["keys"]
        size = (max(2.6, 1.7 + 0.75 * len(pair["columns"])), 1.3 + 0.45 * len(pair["rows"]))
        name, title = f"interaction_{_slug(one)}_{_slug(other)}", figure_label(MAIN)
        yield Plan("interactions", name, title, size, partial(_paint_interaction, pair))
    for figure, curves in facts["curves"].items():
        title, unit = HELD_OUT[figure.removeprefix("valid/")]
        paint = partial(_paint_curves, facts, figure, curves, unit)
        yield Plan("curves", f"curves_{_slug(figure)}", title, SIZE, paint)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _looks(facts: Mapping[str, Any], names: Sequence[str], theme: Theme) -> dict[str, Look]:
    return looks(names, theme, plain=[facts["baseline"]])


# --- painters ----------------------------------------------------------------------------------------------------


def _paint_arms(facts: Mapping[str, Any], figure: str, names: Sequence[str], axes: Axes, theme: Theme) -> None:
    scale, rows = 100 if is_share(figure) else 1, {}
    for name in names:
        entry = facts["groups"][name]["figures"][figure]
        seeds = [scale * value for value in entry["seeds"].values()]
        rows[name] = seeds, scale * entry["mean"], None if entry["sd"] is None else scale * entry["sd"]
    strips(rows, _looks(facts, list(facts["groups"]), theme), axes, most=_LONG)


def _paint_effect(key: str, entries: Sequence[Mapping[str, Any]], axes: Axes, theme: Theme) -> None:
    """A point a value with its spread, evenly spaced: what lies between two values was not tried."""
    color = theme.students[0]
    places = range(len(entries))
    for place, entry in zip(places, entries, strict=True):
        seeds = list(entry["seeds"].values())
        axes.plot([place] * len(seeds), seeds, "_", color=color, alpha=0.6, markersize=9)
        axes.errorbar(place, entry["mean"], yerr=entry["sd"], fmt="o", color=color, capsize=3, lw=1.2)
    axes.plot(places, [entry["mean"] for entry in entries], color=color, lw=1, alpha=0.5)
    names = [short(value_text(entry["value"]), _LONG) for entry in entries]
    upright = sum(map(len, names)) + len(names) > _WIDE
    axes.set_xticks(places, names, rotation=90 if upright else 0)
    if upright:  # the figure grows by its names
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.set_figheight(figure.get_figheight() + 0.07 * max(map(len, names)))
    axes.set_xlim(-0.5, len(entries) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    axes.set_xlabel(key)
    axes.set_ylabel(figure_label(MAIN))


def _paint_interaction(pair: Mapping[str, Any], axes: Axes, theme: Theme) -> None:
    """A heat map with its numbers; cells without an arm stay empty."""
    means = [[float("nan") if mean is None else mean for mean in row] for row in pair["means"]]
    image = axes.imshow(means, cmap="cividis_r", aspect="auto")
    for row, line in enumerate(pair["means"]):
        for column, mean in enumerate(line):
            if mean is not None:
                dark = image.norm(mean) > 0.5  # type: ignore[operator]
                color = "#ffffff" if dark else "#000000"
                axes.text(column, row, figure_text(MAIN, mean), ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(len(pair["columns"])), list(map(value_text, pair["columns"])))
    axes.set_yticks(range(len(pair["rows"])), list(map(value_text, pair["rows"])))
    axes.grid(visible=False)
    axes.set_xlabel(pair["keys"][1])
    axes.set_ylabel(pair["keys"][0])


def _paint_curves(
    facts: Mapping[str, Any], figure: str, curves: Mapping[str, Any], unit: str, axes: Axes, theme: Theme
) -> None:
    """The mean over seeds, with a band of one standard deviation to either side."""
    named = _named(facts, curves)
    found, handles = _looks(facts, named, theme), dict[str, Artist]()
    for name in sorted(curves, key=lambda name: name in found):
        steps, means, spreads = zip(*curves[name], strict=True)
        if name not in found:
            (handles["others"],) = axes.plot(steps, means, color=theme.faint, lw=1)
            continue
        look = found[name]
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=look.color, alpha=0.15, linewidth=0)
        mark = look.mark if len(steps) <= 30 else None
        (handles[name],) = axes.plot(
            steps, means, color=look.color, linestyle=look.stroke, lw=1.8, marker=mark, markersize=4
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=_TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    if is_share(figure.removeprefix("valid/")):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    others = {"others": handles["others"]} if "others" in handles else {}
    legend(axes, {arm_label(facts, name): handles[name] for name in named} | others)


def _named(facts: Mapping[str, Any], curves: Mapping[str, Any]) -> list[str]:
    """All arms where they are few; else the baseline and those with the lowest final loss."""
    if len(curves) <= NAMED:
        return list(curves)
    ends = facts["curves"].get(f"valid/{MAIN}", {})
    lowest = sorted((name for name in curves if name in ends), key=lambda name: ends[name][-1][1])[: NAMED - 1]
    return [name for name in curves if name in lowest or name == facts["baseline"]]
