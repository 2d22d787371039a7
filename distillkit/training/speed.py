"""How fast a run trains: tokens, operations and seconds by phase of each logging window.

Lightning's ThroughputMonitor is not used: it takes every batch for equally large, waits for the device at each one,
begins to count at 0 after a resume, counts the time of checkpoints and knows no phases. The figures here are those of
its names: items and flops per second, and mfu.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from distillkit.flops import StepFlops, model_flops
from distillkit.objective import HiddenSource, Objective
from distillkit.phases import OTHER, PAUSED, PhaseClock, run_clock
from distillkit.types import Batch


def step_flops(student: PreTrainedModel, teacher: HiddenSource | None, objective: Objective) -> StepFlops | None:
    """The operations that a step of an objective needs; None where they cannot be counted."""
    own = model_flops(student)
    taught = model_flops(teacher.model) if teacher is not None and objective.needs_teacher else None
    if own is None or (taught is None and objective.needs_teacher):
        return None
    on_logits = [term for term in objective.terms.values() if term.on == "logits"]
    positions = {term.positions for term in on_logits}
    heads = "all" if "all" in positions else "predicted" if positions else None
    return StepFlops(own, taught, heads, compared=any(term.needs_teacher for term in on_logits))


class SpeedGauge:
    """Counts what the optimizer steps of a logging window did and what they took.

    Args:
        device: the one that trains.
        flops: of a step, or None where unknown.
        roof: FLOP/s of one device at best, or None where unknown.
        ranks: that train together; a step's tokens are those of all.
        rows: how many rows the teacher has read from its cache and computed so far; None without a cache.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        flops: StepFlops | None,
        roof: float | None,
        ranks: int = 1,
        rows: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        self._flops, self._roof, self._ranks = flops, roof, ranks
        self._rows = rows or (lambda: (0, 0))
        self._clock = PhaseClock(device)
        self._begin()
        run_clock(self._clock)

    def note(self, batch: Batch) -> None:
        """Counts an optimizer step, by its first micro-batch."""
        self._steps += 1
        self._tokens += batch.totals.attended
        if self._flops is not None:
            # the step's rows are of about this length: packed rows are equal, padded ones are sorted by length
            length = batch.input_ids.shape[1]
            self._work += self._flops.of(batch.totals, length)
            self._taught += self._flops.of_teacher(batch.totals, length)

    def _begin(self) -> None:
        self._steps, self._tokens, self._work, self._taught = 0, 0, 0.0, 0.0
        self._rows_before = self._rows()

    def window(self) -> dict[str, float]:
        """Figures of the steps since the last call, which begins the next window.

        Returns:
            tokens_per_second, seconds_per_step and {phase}_seconds of each phase, which add up to it; flops_per_second
            and mfu (share of the roof of all devices) where they are known. Empty without a step.
        """
        seconds = self._clock.read()
        steps, total = self._steps, max(sum(seconds.values()), 1e-9)
        read, computed = (now - before for now, before in zip(self._rows(), self._rows_before, strict=True))
        work = (self._work - self._taught * read / max(read + computed, 1)) / total  # what was read was not computed
        found = {"tokens_per_second": self._tokens / total, "seconds_per_step": total / max(steps, 1)}
        if work:
            found["flops_per_second"] = work
        if work and self._roof:
            found["mfu"] = work / (self._roof * self._ranks)
        found |= {f"{name}_seconds": value / max(steps, 1) for name, value in seconds.items()}
        self._begin()
        return found if steps else {}

    def pause(self) -> None:
        """What follows is no part of a step."""
        self._clock.switch(PAUSED)
        run_clock(None)

    def go_on(self) -> None:
        """Ends a pause."""
        self._clock.switch(OTHER)
        run_clock(self._clock)

    def stop(self) -> None:
        """Ends the counting."""
        run_clock(None)
