"""The figures of a report, drawn from its facts alone, each for a light and for a dark page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distillkit.students.transfer import layer_ranges

FIGURES = "figures"
LABELLED = 5
"""Most points whose names stand beside them; the names of more stand below the figure."""
SECTIONS = ("cost", "training", "held_out", "layers")
SIZE, DPI = (4.2, 3.0), 170
LOSSES = {
    "ce": ("Soft targets (ce)", "KL x T², nats"),
    "mlm": ("Masked LM (mlm)", "nats"),
    "cos": ("Hidden states (cos)", "1 - cosine"),
}
HELD_OUT = {
    "mlm_loss": ("Held-out MLM loss", "nats"),
    "top1": ("Held-out top-1", "share correct"),
    "agreement": ("Agreement with the teacher", "share of positions"),
    "kl": ("KL to the teacher", "nats"),
}
_SHARES = ("top1", "agreement")


class Theme(NamedTuple):
    """Colours of a page: what is behind, what is written, lines of little weight, one colour a student."""

    back: str
    text: str
    faint: str
    students: tuple[str, ...]


# hues of Okabe and Ito, which colour-blind readers tell apart; lighter ones on the dark page
THEMES = {
    "light": Theme("#ffffff", "#1c1e21", "#c9ccd1", ("#0072b2", "#d55e00", "#009e73", "#b4558f", "#a87900", "#2f8fc4")),
    "dark": Theme("#15171b", "#e6e8eb", "#4a4f57", ("#56b4e9", "#ff8f52", "#35cfa0", "#e79ac6", "#f0c64a", "#a5dcff")),
}
_TICKS = [1, 2, 2.5, 5, 10]
_STROKES, _MARKS = ("-", "--", ":", "-."), "osD^vP"


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        section: of the page, one of SECTIONS.
        name: of its files.
        title: says what it shows, also to who cannot see it.
        images: theme -> PNG.
    """

    section: str
    name: str
    title: str
    images: dict[str, bytes]

    def path(self, theme: str) -> str:
        """Its file for a theme, relative to the page."""
        return f"{FIGURES}/{self.name}_{theme}.png"


class _Style(NamedTuple):
    color: str
    stroke: str
    mark: str


Painter = Callable[[Axes, Theme], None]


def draw(facts: Mapping[str, Any]) -> list[Drawing]:
    """Draws what the facts hold figures for.

    Args:
        facts: of `facts.gather`, or as read from report.json.

    Returns:
        Drawings in the order of the page; those without data are left out.
    """
    drawings = []
    for section, name, title, size, paint in _plan(facts):
        images = {theme: _render(paint, title, colors, size) for theme, colors in THEMES.items()}
        drawings.append(Drawing(section, name, title, images))
    return drawings


def _plan(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str, tuple[float, float], Painter]]:
    """Section, file name, title, inches and painter of each figure."""
    models, runs = facts["models"], facts["runs"]
    costs = (("unique_parameters", "size", "Size and quality"), ("latency_ms", "latency", "Latency and quality"))
    for cost, name, title in costs:
        if sum(_has(model, cost) for model in models.values()) > 1:
            yield "cost", name, title, SIZE, partial(_paint_cost, models, cost)
    names = list(dict.fromkeys(name for run in runs.values() for name in run["curves"]))
    terms = [name for name in names if name.startswith("train/") and name != "train/loss"]
    for name in terms:
        title, unit = LOSSES.get(name.removeprefix("train/"), (name.removeprefix("train/"), "mean"))
        yield "training", f"loss_{_slug(name)}", title, SIZE, partial(_paint_curves, runs, name, unit)
    for metric, (title, unit) in HELD_OUT.items():
        if f"valid/{metric}" in names:
            paint = partial(_paint_curves, runs, f"valid/{metric}", unit)
            yield "held_out", f"held_out_{metric}", title, SIZE, paint
    for number, (name, run) in enumerate(runs.items()):
        if run["layers"]["blocks"]:
            title = f"Layers of {_short(name)}"
            size = (SIZE[0] if run["layers"]["source_layers"] <= 12 else 2 * SIZE[0], 2.3)
            yield "layers", f"layers_{number + 1}", title, size, partial(_paint_layers, runs, name)


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.removeprefix("train/"))


def _short(name: str, most: int = 26) -> str:
    """A name that fits into a figure; its end tells more than its beginning."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _render(paint: Painter, title: str, theme: Theme, size: tuple[float, float]) -> bytes:
    """PNG of one figure; rc_context leaves the caller's settings alone, and Figure keeps pyplot out of it."""
    settings: Any = {
        "font.size": 10, "text.color": theme.text, "axes.labelcolor": theme.text, "xtick.color": theme.text,
        "ytick.color": theme.text, "axes.edgecolor": theme.faint, "axes.facecolor": theme.back,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": theme.faint,
        "grid.alpha": 0.45, "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "legend.frameon": False, "legend.fontsize": 9, "legend.handlelength": 1.6, "text.parse_math": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, dpi=DPI, facecolor=theme.back, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title)
        paint(axes, theme)
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _styles(runs: Mapping[str, Any], theme: Theme) -> dict[str, _Style]:
    """One look a student, the same in every figure; beyond six, strokes and marks tell those of one colour apart."""
    styles = {}
    for number, name in enumerate(runs):
        again, color = divmod(number, len(theme.students))
        stroke, mark = _STROKES[again % len(_STROKES)], _MARKS[(number + again) % len(_MARKS)]
        styles[name] = _Style(theme.students[color], stroke, mark)
    return styles


# --- painters ----------------------------------------------------------------------------------------------------


def _paint_curves(runs: Mapping[str, Any], name: str, unit: str, axes: Axes, theme: Theme) -> None:
    shown = {run: style for run, style in _styles(runs, theme).items() if name in runs[run]["curves"]}
    lines = []
    for run, style in shown.items():
        steps, values = zip(*runs[run]["curves"][name], strict=True)
        mark = style.mark if len(steps) <= 30 else None
        lines += axes.plot(steps, values, color=style.color, linestyle=style.stroke, marker=mark, markersize=4, lw=1.8)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=_TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    if name.removeprefix("valid/") in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(runs) > 1:
        _legend(axes, dict(zip(shown, lines, strict=True)))


def _legend(axes: Axes, handles: Mapping[str, Artist]) -> None:
    """Names below the axes, where they cover nothing; the figure grows by their lines."""
    # matplotlib leaves names that begin with an underscore out of a legend
    labels = [f" {_short(name, 40)}" for name in handles]
    columns = 2 if max(map(len, labels)) <= 19 else 1
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(labels) // columns))
    figure.legend(list(handles.values()), labels, loc="outside lower left", ncols=columns, labelcolor="linecolor")


def _has(model: Mapping[str, Any], cost: str) -> bool:
    return model.get(cost) is not None and model["top1"] is not None


def _paint_cost(models: Mapping[str, Any], cost: str, axes: Axes, theme: Theme) -> None:
    styles = _styles({name: model for name, model in models.items() if model["role"] == "student"}, theme)
    scale = 1e6 if cost == "unique_parameters" else 1.0
    points = {name: (model[cost] / scale, model["top1"]) for name, model in models.items() if _has(model, cost)}
    handles: dict[str, Artist] = {}
    for name, point in points.items():
        style, size = (styles[name], 9) if name in styles else (_Style(theme.text, "none", "*"), 13)
        (handles[name],) = axes.plot(
            *point, style.mark, color=style.color, markersize=size, markeredgecolor=theme.back, clip_on=False
        )
    widest, highest = max(x for x, _ in points.values()), max(y for _, y in points.values()) or 1.0
    axes.set_xlim(0, widest * 1.12)
    axes.set_ylim(0, highest * 1.2)
    if len(points) > LABELLED:
        _legend(axes, handles)
    else:
        _label_points(axes, points, {name: styles[name].color for name in points if name in styles})
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("unique parameters, millions" if cost == "unique_parameters" else "CPU latency of one text, ms")
    axes.set_ylabel("held-out top-1")


def _label_points(axes: Axes, points: Mapping[str, tuple[float, float]], colors: Mapping[str, str]) -> None:
    """Writes each name beside its point, upwards from the lowest, a line apart, so that equal points stay readable."""
    widest, highest = axes.get_xlim()[1], axes.get_ylim()[1]
    line, height = highest * 0.09, -highest
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        left, height = x > widest / 2, max(y, height + line)
        axes.annotate(
            _short(name), (x, height), xytext=(-9 if left else 9, 0), textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=9, color=colors.get(name),
        )  # fmt: skip
    axes.set_ylim(0, max(highest, height + line))


def _paint_layers(runs: Mapping[str, Any], name: str, axes: Axes, theme: Theme) -> None:
    """Student blocks above, source layers below, a line from each block to every layer it was made from."""
    layers, color = runs[name]["layers"], _styles(runs, theme)[name].color
    blocks, total = layers["blocks"], layers["source_layers"]
    axes.set_axis_off()
    axes.set_xlim(-0.8, total - 0.2)
    axes.set_ylim(-0.75, 1.75)
    used = {origin for block in blocks for origin in block["origins"]}
    for number in range(total):
        edge = theme.text if number in used else theme.faint
        _box(axes, number, 0, str(number), edge, theme)
    for place, block in enumerate(blocks):
        middle = (place + 0.5) * total / len(blocks) - 0.5
        for origin in block["origins"]:
            axes.plot([middle, origin], [0.82, 0.2], color=color, lw=1.5, zorder=1)
        times = len(block["layers"])
        text = f"one block, used {times} times" if len(blocks) == 1 < times else layer_ranges(block["layers"])
        _box(axes, middle, 1, text, color, theme)
    axes.text(-0.5, 1.42, "student layers", fontsize=9, va="center")
    source = layers["source"]
    text = "teacher layers" if source == "teacher" else f"layers of {_short(source)}"
    axes.text(-0.5, -0.5, text, fontsize=9, va="center")


def _box(axes: Axes, x: float, y: float, text: str, edge: str, theme: Theme) -> None:
    frame = {"boxstyle": "round,pad=0.35", "facecolor": theme.back, "edgecolor": edge, "linewidth": 1.6}
    faded = theme.text if edge != theme.faint else theme.faint
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=faded, bbox=frame, zorder=2)
