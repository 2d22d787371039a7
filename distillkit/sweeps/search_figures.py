"""The figures of a search: its history, its trials as lines over the parameters, a map of the two that matter most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from matplotlib.tri import Triangulation

from distillkit.report.drawing import SIZE, Plan, Theme
from distillkit.sweeps.tables import value_text

_COLORS = "viridis_r"
_SECTION = "search"


def plans(search: Mapping[str, Any]) -> Iterator[Plan]:
    """The figures of a search, as far as its trials give them.

    Args:
        search: of `trials.search_facts`.
    """
    valued = [trial for trial in search["trials"] if trial["value"] is not None]
    keys = search["parameters"]
    if not valued:
        return
    yield Plan(_SECTION, "search_history", "Trials and the best so far", SIZE, partial(_paint_history, search))
    if search["importance"]:
        size = (SIZE[0], 1.1 + 0.3 * len(search["importance"]))
        yield Plan(_SECTION, "search_importance", "Importance", size, partial(_paint_importance, search["importance"]))
    if len(keys) > 1 and len(valued) > 1:
        size = (max(SIZE[0], 1.6 + 1.1 * len(keys)), SIZE[1])
        yield Plan(_SECTION, "search_parallel", "Parameters of each trial", size, partial(_paint_parallel, search))
    numeric = [key for key in keys if all(_is_number(trial["values"].get(key)) for trial in valued)]
    if len(numeric) > 1:
        paint = partial(_paint_map, search["metric"], numeric[:2], valued)
        yield Plan(_SECTION, "search_map", f"{search['metric']} over two parameters", SIZE, paint)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _norm(values: Sequence[float]) -> Normalize:
    """Colours of the values; the worst tenth shares one, so that a diverged trial does not take all colours."""
    return Normalize(min(values), float(np.quantile(values, 0.9)), clip=True)


def _paint_history(search: Mapping[str, Any], axes: Axes, theme: Theme) -> None:
    for filled, trials in ((True, _of(search, "done")), (False, _of(search, "done", other=True))):
        color = theme.students[0] if filled else theme.text
        axes.plot([t["number"] for t in trials], [t["value"] for t in trials], "o", color=color, markersize=5,
                  markerfacecolor=color if filled else "none", label="done" if filled else "not done")  # fmt: skip
    known = [(trial["number"], best) for trial, best in zip(search["trials"], search["best_so_far"], strict=True)
             if best is not None and math.isfinite(best)]  # fmt: skip
    if known:
        axes.step(*zip(*known, strict=True), where="post", color=theme.students[1], lw=1.6, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(search["metric"])
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.legend()


def _of(search: Mapping[str, Any], status: str, *, other: bool = False) -> list[Mapping[str, Any]]:
    """The trials with a value that have a status, or have another one."""
    return [t for t in search["trials"] if t["value"] is not None and (t["status"] == status) != other]


def _paint_importance(importance: Mapping[str, float], axes: Axes, theme: Theme) -> None:
    names = sorted(importance, key=lambda name: importance[name])
    axes.barh(range(len(names)), [importance[name] for name in names], color=theme.students[0], height=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    axes.set_xlabel("share")


def _paint_parallel(search: Mapping[str, Any], axes: Axes, theme: Theme) -> None:
    """A line a trial through its values, each axis from the lowest to the highest; the best trial is thick."""
    keys = search["parameters"]
    trials = [t for t in search["trials"] if t["value"] is not None and all(key in t["values"] for key in keys)]
    columns = [_heights([trial["values"][key] for trial in trials]) for key in keys]
    values = [trial["value"] for trial in trials]
    lines = [list(enumerate(column[row] for column in columns)) for row in range(len(trials))]
    thick = [3.0 if trial["number"] == search["best"] else 1.0 for trial in trials]
    axes.add_collection(LineCollection(lines, array=values, cmap=_COLORS, norm=_norm(values), linewidths=thick))
    for place, key in enumerate(keys):
        for height, text in _marks([trial["values"][key] for trial in trials]):
            axes.annotate(text, (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center",
                          bbox={"facecolor": theme.back, "edgecolor": "none", "alpha": 0.7, "pad": 0.5})  # fmt: skip
    axes.set_xlim(-0.1, len(keys) - 0.6)
    axes.set_ylim(-0.06, 1.06)
    axes.set_xticks(range(len(keys)), [key.rpartition(".")[2] for key in keys])
    axes.set_yticks([])
    _bar(axes, values, search["metric"])


def _heights(values: Sequence[Any]) -> list[float]:
    """Each value's place in 0..1: numbers by size, words in the order they came in."""
    numbers = list(values) if all(map(_is_number, values)) else [list(dict.fromkeys(values)).index(v) for v in values]
    low, high = min(numbers), max(numbers)
    return [0.5 if low == high else (number - low) / (high - low) for number in numbers]


def _marks(values: Sequence[Any]) -> list[tuple[float, str]]:
    """What stands at an axis: the ends of numbers, every word."""
    shown = dict(zip(values, _heights(values), strict=True))
    if all(map(_is_number, values)):
        shown = {value: shown[value] for value in (min(values), max(values))}
    return [(height, value_text(value)) for value, height in shown.items()]


def _paint_map(metric: str, keys: Sequence[str], trials: Sequence[Mapping[str, Any]], axes: Axes, theme: Theme) -> None:
    """Trials as points in the plane of two parameters; between them the metric, interpolated linearly."""
    x, y = ([trial["values"][key] for trial in trials] for key in keys)
    values = [trial["value"] for trial in trials]
    norm = _norm(values)
    plane = np.column_stack([_heights(x), _heights(y)])
    if len(np.unique(plane, axis=0)) > 3 and np.linalg.matrix_rank(plane - plane[0], tol=1e-6) > 1:
        triangles = Triangulation(*plane.T).triangles
        axes.tricontourf(Triangulation(x, y, triangles), values, levels=8, cmap=_COLORS, norm=norm, alpha=0.6)
    axes.scatter(x, y, c=values, cmap=_COLORS, norm=norm, edgecolors=theme.text, linewidths=0.8, s=28, zorder=3)
    axes.set_xlabel(keys[0])
    axes.set_ylabel(keys[1])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    _bar(axes, values, metric)


def _bar(axes: Axes, values: Sequence[float], label: str) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(_norm(values), _COLORS), ax=axes, label=label, pad=0.03)
    bar.outline.set_visible(False)  # type: ignore[operator]
