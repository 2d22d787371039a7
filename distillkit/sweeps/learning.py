"""The held-out curves of arms, the seeds of an arm put together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from distillkit.sweeps.arms import Arm

CURVES = ("valid/mlm_loss", "valid/kl", "valid/agreement", "valid/sop_accuracy")
"""Unweighted: the loss that is minimized weighs its terms differently in each arm."""
Curves = Mapping[str, Sequence[Sequence[float]]]


def mean_curves(arms: Sequence[tuple[Arm, Curves]]) -> dict[str, dict[str, list[list[float]]]]:
    """The curve of each name of arms, over the seeds of which it has one.

    Args:
        arms: with their curves, as `read_curves`.

    Returns:
        figure -> arm's name -> [[step, mean, standard deviation], ...], the latter 0 for one seed; of the arms that
        are done, else of those that began; at the steps that all of these have.
    """
    found: dict[str, dict[str, list[list[float]]]] = {}
    for figure in CURVES:
        for name in dict.fromkeys(arm.name for arm, _ in arms):
            own = [(arm, curves[figure]) for arm, curves in arms if arm.name == name and figure in curves]
            done = [curve for arm, curve in own if arm.status == "done"]
            if points := _mean(done or [curve for _, curve in own]):
                found.setdefault(figure, {})[name] = points
    return found


def _mean(curves: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    values = [{int(step): value for step, value in curve} for curve in curves]
    steps = sorted(set.intersection(*map(set, values))) if values else []
    return [[step, statistics.fmean(at), statistics.stdev(at) if len(at) > 1 else 0.0]
            for step in steps for at in [[curve[step] for curve in values]]]  # fmt: skip
