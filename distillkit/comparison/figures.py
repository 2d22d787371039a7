"""The figures of a comparison, drawn from its results alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from distillkit.comparison.ranking import averages, costs, front
from distillkit.report.drawing import SIZE, Drawing, Look, Plan, Point, Theme, draw_all, looks, scatter, strips

SECTIONS = ("cost", "tasks")
_COSTS = {
    "unique_parameters": ("size", "Size and score", "unique parameters, millions", 1e-6),
    "latency_ms": ("latency", "Latency and score", "CPU latency of one text, ms", 1.0),
}


def draw(facts: Mapping[str, Any]) -> list[Drawing]:
    """Draws what the results hold figures for.

    Args:
        facts: results.json.

    Returns:
        Drawings in the order of the page; those without data are left out.
    """
    return draw_all(_plan(facts))


def floor(facts: Mapping[str, Any]) -> float:
    """Where the average scores, times 100, of the figures of costs begin: below the lowest with its spread.

    Args:
        facts: results.json.
    """
    scores = averages(facts).values()
    if not scores:
        return 0.0
    lowest = 100 * min(score.mean - (score.sd or 0.0) for score in scores)
    below = lowest - 0.2 * max(100 * max(score.mean for score in scores) - lowest, 5.0)
    return max(0.0, below) if lowest >= 0 else below


def _plan(facts: Mapping[str, Any]) -> Iterator[Plan]:
    for cost, (name, title, _, _) in _COSTS.items():
        if len(costs(facts, cost)) > 1:
            yield Plan("cost", name, title, SIZE, partial(_paint_cost, facts, cost))
    for number, task in enumerate(facts["tasks"]):
        models = [model for model in facts["models"] if task in facts["scores"].get(model, {})]
        if models:
            size = (SIZE[0], 0.95 + 0.24 * len(models))
            yield Plan("tasks", f"task_{number + 1}", task, size, partial(_paint_task, facts, task, models))


def _looks(facts: Mapping[str, Any], theme: Theme) -> dict[str, Look]:
    return looks(facts["models"], theme, plain=[facts["reference"]])


def _paint_cost(facts: Mapping[str, Any], cost: str, axes: Axes, theme: Theme) -> None:
    """Average scores over a cost; a step line through the Pareto front, which each further model would have to pass."""
    scale, found = _COSTS[cost][3], averages(facts)
    points = {
        name: Point(scale * x, 100 * y, None if (sd := found[name].sd) is None else 100 * sd)
        for name, (x, y) in costs(facts, cost).items()
    }
    scatter(points, _looks(facts, theme), axes, theme, floor=floor(facts))
    best = [points[name] for name in front({name: (point.x, point.y) for name, point in points.items()})]
    axes.step(
        [*(point.x for point in best), axes.get_xlim()[1]], [*(point.y for point in best), best[-1].y],
        where="post", color=theme.text, alpha=0.45, lw=1.2, linestyle="--", zorder=1,
    )  # fmt: skip
    axes.set_xlabel(_COSTS[cost][2])
    axes.set_ylabel("average score")


def _paint_task(facts: Mapping[str, Any], task: str, models: list[str], axes: Axes, theme: Theme) -> None:
    """A line a model: its seeds as faint points, their mean with the standard deviation."""
    rows = {}
    for name in models:
        entry = facts["scores"][name][task]
        seeds = [100 * value for value in entry["seeds"].values()]
        rows[name] = seeds, 100 * entry["mean"], None if entry["sd"] is None else 100 * entry["sd"]
    strips(rows, _looks(facts, theme), axes)
    axes.set_xlabel(f"score ({', '.join(facts['tasks'][task]['metrics']).replace('_', ' ')})")
