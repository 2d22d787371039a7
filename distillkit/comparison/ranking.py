"""Who is better, by how much, and whether the seeds can tell: what words and figures of a comparison rest on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple


class Score(NamedTuple):
    """A score in 0..1: its mean, and its standard deviation over seeds, None for one seed."""

    mean: float
    sd: float | None


def average(scores: Mapping[str, Mapping[str, Any]], tasks: Collection[str]) -> Score | None:
    """A model's mean score over tasks, and that mean's standard deviation over the seeds that every task has.

    Args:
        scores: the model's, task -> entry.
        tasks: their names.

    Returns:
        None without tasks, and when one of them has no score.
    """
    if not tasks or any(task not in scores for task in tasks):
        return None
    entries = [scores[task] for task in tasks]
    seeds = sorted(set.intersection(*(set(entry["seeds"]) for entry in entries)))
    means = [statistics.fmean(entry["seeds"][seed] for entry in entries) for seed in seeds]
    mean = statistics.fmean(entry["mean"] for entry in entries)
    return Score(mean, statistics.stdev(means) if len(means) > 1 else None)


def common_tasks(facts: Mapping[str, Any]) -> list[str]:
    """The tasks that every model has a score on, models without any aside: their averages compare."""
    scored = [scores for scores in facts["scores"].values() if scores]
    return [task for task in facts["tasks"] if scored and all(task in scores for scores in scored)]


def averages(facts: Mapping[str, Any]) -> dict[str, Score]:
    """The average over the common tasks of each model that has one."""
    tasks = common_tasks(facts)
    found = {model: average(facts["scores"].get(model, {}), tasks) for model in facts["models"]}
    return {model: score for model, score in found.items() if score is not None}


def alike(one: Score, other: Score) -> bool:
    """Whether a difference is within the seeds' spread: no larger than the standard deviation of the difference.

    False where no spread is known: one seed tells nothing about the next.
    """
    if one.sd is None or other.sd is None:
        return False
    return abs(one.mean - other.mean) <= math.hypot(one.sd, other.sd)


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The Pareto front: the names no other point of which costs no more and scores no less, and differs in one.

    Args:
        points: name -> cost, score.

    Returns:
        From the cheapest on; equal points stand together or not at all.
    """

    def beaten(point: tuple[float, float]) -> bool:
        return any(x <= point[0] and y >= point[1] and (x, y) != point for x, y in points.values())

    return sorted((name for name, point in points.items() if not beaten(point)), key=lambda name: points[name])


def costs(facts: Mapping[str, Any], cost: str) -> dict[str, tuple[float, float]]:
    """Model -> cost and average score, of the models that have both.

    Args:
        facts: results.json.
        cost: a key of its models.
    """
    return {
        name: (facts["models"][name][cost], score.mean)
        for name, score in averages(facts).items()
        if facts["models"][name][cost] is not None
    }
