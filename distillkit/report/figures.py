"""The figures of a run's report, drawn from its facts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from distillkit.phases import NAMES
from distillkit.report.drawing import SIZE, Drawing, Plan, Point, Theme, draw_all, legend, looks, scatter, short
from distillkit.students.transfer import layer_ranges

SECTIONS = ("cost", "training", "held_out", "speed", "layers")
LOSSES = {
    "ce": ("Soft targets (ce)", "KL x T², nats"),
    "mlm": ("Masked LM (mlm)", "nats"),
    "cos": ("Hidden states (cos)", "1 - cosine"),
    "sop": ("Sentence order (sop)", "nats"),
}
HELD_OUT = {
    "mlm_loss": ("Held-out MLM loss", "nats"),
    "top1": ("Held-out top-1", "share correct"),
    "agreement": ("Agreement with the teacher", "share of positions"),
    "kl": ("KL to the teacher", "nats"),
    "sop_accuracy": ("Held-out sentence order", "share right"),
}
SPEED = {
    "tokens_per_second": ("Tokens a second", "attended tokens/s"),
    "mfu": ("Share of the machine's roof", "share"),
}
_SHARES = ("valid/top1", "valid/agreement", "valid/sop_accuracy", "speed/mfu")
_TICKS = [1, 2, 2.5, 5, 10]


def draw(facts: Mapping[str, Any]) -> list[Drawing]:
    """Draws what the facts hold figures for.

    Args:
        facts: of `facts.gather`, or as read from report.json.

    Returns:
        Drawings in the order of the page; those without data are left out.
    """
    return draw_all(_plan(facts))


def _plan(facts: Mapping[str, Any]) -> Iterator[Plan]:
    """The figures of the page, in its order."""
    models, runs = facts["models"], facts["runs"]
    costs = (("unique_parameters", "size", "Size and quality"), ("latency_ms", "latency", "Latency and quality"))
    for cost, name, title in costs:
        if sum(_has(model, cost) for model in models.values()) > 1:
            yield Plan("cost", name, title, SIZE, partial(_paint_cost, models, cost))
    names = list(dict.fromkeys(name for run in runs.values() for name in run["curves"]))
    terms = [name for name in names if name.startswith("train/") and name != "train/loss"]
    for name in terms:
        title, unit = LOSSES.get(name.removeprefix("train/"), (name.removeprefix("train/"), "mean"))
        yield Plan("training", f"loss_{_slug(name)}", title, SIZE, partial(_paint_curves, runs, name, unit))
    for metric, (title, unit) in HELD_OUT.items():
        if f"valid/{metric}" in names:
            paint = partial(_paint_curves, runs, f"valid/{metric}", unit)
            yield Plan("held_out", f"held_out_{metric}", title, SIZE, paint)
    measured = {name: run["speed"]["phases"] for name, run in runs.items() if run["speed"]["phases"]}
    if measured:
        size = (SIZE[0], 1.3 + 0.35 * len(measured))
        yield Plan("speed", "speed_phases", "Where a step's time goes", size, partial(_paint_phases, measured))
    for figure, (title, unit) in SPEED.items():
        if f"speed/{figure}" in names:
            yield Plan("speed", f"speed_{figure}", title, SIZE, partial(_paint_curves, runs, f"speed/{figure}", unit))
    for number, (name, run) in enumerate(runs.items()):
        if run["layers"]["blocks"]:
            title = f"Layers of {short(name)}"
            size = (SIZE[0] if run["layers"]["source_layers"] <= 12 else 2 * SIZE[0], 2.3)
            yield Plan("layers", f"layers_{number + 1}", title, size, partial(_paint_layers, runs, name))


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name.removeprefix("train/"))


# --- painters ----------------------------------------------------------------------------------------------------


def _paint_curves(runs: Mapping[str, Any], name: str, unit: str, axes: Axes, theme: Theme) -> None:
    shown = {run: style for run, style in looks(runs, theme).items() if name in runs[run]["curves"]}
    lines = []
    for run, style in shown.items():
        steps, values = zip(*runs[run]["curves"][name], strict=True)
        mark = style.mark if len(steps) <= 30 else None
        lines += axes.plot(steps, values, color=style.color, linestyle=style.stroke, marker=mark, markersize=4, lw=1.8)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1, steps=_TICKS))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=_TICKS))
    if name.startswith("speed/"):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    if name in _SHARES:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    if len(runs) > 1:
        legend(axes, dict(zip(shown, lines, strict=True)))


def _paint_phases(measured: Mapping[str, Mapping[str, float]], axes: Axes, theme: Theme) -> None:
    """A bar a run, of its phases in the order of a step; a share stands in a part that is wide enough for it."""
    colors = dict(zip(NAMES, (*theme.students, theme.text, theme.faint), strict=True))
    longest = max(sum(phases.values()) for phases in measured.values())
    handles: dict[str, Artist] = {}
    for place, phases in enumerate(measured.values()):
        begin, total = 0.0, sum(phases.values())
        for name, label in NAMES.items():
            handles[label] = axes.barh(place, phases[name], left=begin, color=colors[name], height=0.6)[0]
            if phases[name] > 0.08 * longest:
                middle = begin + phases[name] / 2
                share = f"{phases[name] / total:.0%}"
                axes.text(middle, place, share, ha="center", va="center", fontsize=9, color=theme.back, weight="bold")
            begin += phases[name]
    axes.set_yticks(range(len(measured)), [short(name, 14) for name in measured])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_axisbelow(True)
    axes.set_xlabel("seconds a step")
    legend(axes, handles, label_color=theme.text)


def _has(model: Mapping[str, Any], cost: str) -> bool:
    return model.get(cost) is not None and model["top1"] is not None


def _paint_cost(models: Mapping[str, Any], cost: str, axes: Axes, theme: Theme) -> None:
    scale = 1e6 if cost == "unique_parameters" else 1.0
    points = {name: Point(model[cost] / scale, model["top1"]) for name, model in models.items() if _has(model, cost)}
    teachers = [name for name, model in models.items() if model["role"] == "teacher"]
    scatter(points, looks(models, theme, plain=teachers), axes, theme)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("unique parameters, millions" if cost == "unique_parameters" else "CPU latency of one text, ms")
    axes.set_ylabel("held-out top-1")


def _paint_layers(runs: Mapping[str, Any], name: str, axes: Axes, theme: Theme) -> None:
    """Student blocks above, source layers below, a line from each block to every layer it was made from."""
    layers, color = runs[name]["layers"], looks(runs, theme)[name].color
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
    shared = [f"; all share their {part}, made of {layer_ranges(made)}" for part, made in layers["shared"].items()]
    axes.text(-0.5, 1.42, "".join(["student layers", *shared]), fontsize=9, va="center")
    source = layers["source"]
    text = "teacher layers" if source == "teacher" else f"layers of {short(source)}"
    axes.text(-0.5, -0.5, text, fontsize=9, va="center")


def _box(axes: Axes, x: float, y: float, text: str, edge: str, theme: Theme) -> None:
    frame = {"boxstyle": "round,pad=0.35", "facecolor": theme.back, "edgecolor": edge, "linewidth": 1.6}
    faded = theme.text if edge != theme.faint else theme.faint
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=faded, bbox=frame, zorder=2)
