"""What all arms of a sweep together may take: sweep.max_hours and sweep.max_steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.sweeps.arms import Arm
from distillkit.sweeps.outcomes import step_of


def affordable(
    limits: Mapping[str, Any], arms: Sequence[Arm], *, every: Collection[Arm], running: Collection[int],
    seconds_running: float, steps: Callable[[Arm], int], path: Callable[[Arm], Path],
) -> list[Arm]:  # fmt: skip
    """The first of some arms that may be started: steps count in full beforehand, those of arms that run as well.

    Args:
        limits: max_hours and max_steps, None where there is none.
        arms: that are to start together.
        every: all arms of the sweep.
        running: numbers of those that run.
        seconds_running: they have taken so far.
        steps: that an arm takes to its end.
        path: of an arm's run.
    """
    if limits["max_hours"] is not None:
        seconds = sum(arm.seconds for arm in every) + seconds_running
        if seconds >= limits["max_hours"] * 3600:
            return []
    if limits["max_steps"] is None:
        return list(arms)
    new = {arm.number for arm in arms}
    spent = sum(steps(arm) if arm.number in running else step_of(path(arm)) for arm in every if arm.number not in new)
    allowed = list(arms)
    while allowed and spent + sum(map(steps, allowed)) > limits["max_steps"]:
        allowed.pop()
    return allowed
