"""One teacher for several runs of this process: a pass that they all need is computed once.

The runs are threads that take turns. A run works until it asks for the teacher's states; then the one that stands
furthest back goes on. Runs with the same batches so ask for the same states one after the other: the first computes
them, the others take them, and no more than one pass is ever kept. A run that is behind, after a resume for one,
catches up by itself.

What torch keeps once for all threads, its random state and default dtype, changes hands with the turn, so that every
run draws what it draws alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from distillkit.launching import Stop
from distillkit.phases import PAUSED, phase
from distillkit.teachers import Teacher
from distillkit.types import Batch

_START = (-1, -1, 0)


class SharedTeacher(Teacher):
    """A teacher for runs that take turns (`taking_part`); otherwise like the one it is made of.

    Args:
        teacher: computes.
        runs: how many will take part. None begins before all are there.

    Attributes:
        stop: asks the runs to stop, saved, after their optimizer step.
    """

    def __init__(self, teacher: Teacher, runs: int) -> None:
        self.model, self.hidden_size = teacher.model, teacher.hidden_size
        self.stop = Stop()
        self._runs = runs
        self._own: dict[int, _Run] = {}
        self._waiting: dict[int, tuple[int, int, int]] = {}  # by thread, in the order of their coming
        self._turn = threading.Condition()
        self._at_work: int | None = None
        self._held: tuple[Any, Tensor] | None = None

    @contextmanager
    def taking_part(self) -> Iterator[None]:
        """What a run does, in a thread of its own: it begins with the run's first turn."""
        self._own[threading.get_ident()] = _Run()
        self._wait_for_turn(_START)
        try:
            yield
        finally:
            with self._turn:
                self._runs -= 1
                self._pass_on()

    def hidden(self, batch: Batch) -> Tensor:
        """As `Teacher.hidden`, computed by the first of the runs that ask for this batch, under its autocast.

        Args:
            batch: one micro-batch; one without `sequences` is computed for each run.

        Returns:
            [N, H]; the same tensor for all runs, which must not change it.
        """
        run = self._own[threading.get_ident()]
        run.place = run.after(batch)
        with phase(PAUSED):
            self._wait_for_turn(run.place)
        asked = (batch.step, batch.micro, batch.epoch, batch.sequences)
        if self._held is not None and batch.sequences is not None and self._held[0] == asked:
            run.taken += 1
        else:
            self._held = None  # its memory first
            began = time.perf_counter()
            self._held = asked, super().hidden(batch)
            run.computed += 1
            run.seconds += time.perf_counter() - began
        return self._held[1]

    def facts(self) -> dict[str, Any]:
        """Passes of this thread's run so far: passes_taken, passes_computed, seconds_computing (None on a GPU)."""
        run = self._own[threading.get_ident()]
        seconds = None if self.model.device.type == "cuda" else round(run.seconds, 3)  # there they are only begun
        return {"passes_taken": run.taken, "passes_computed": run.computed, "seconds_computing": seconds}

    def _wait_for_turn(self, place: tuple[int, int, int]) -> None:
        me, state = threading.get_ident(), _ProcessState.now()
        with self._turn:
            self._waiting[me] = place
            self._pass_on()
            self._turn.wait_for(lambda: self._at_work == me)
            del self._waiting[me]
        state.restore()

    def _pass_on(self) -> None:
        """The turn goes to the run furthest back, of several to the one that has waited longest."""
        self._at_work = None
        if self._waiting and len(self._waiting) == self._runs:
            self._at_work = min(self._waiting, key=self._waiting.__getitem__)
            self._turn.notify_all()


@dataclass
class _Run:
    """Where a run stands: optimizer step, micro-batch, and held-out batches since; and what it had of the teacher."""

    place: tuple[int, int, int] = _START
    taken: int = 0
    computed: int = 0
    seconds: float = 0.0

    def after(self, batch: Batch) -> tuple[int, int, int]:
        """The place of the run's next batch."""
        if batch.step >= 0:
            return batch.step, batch.micro, 0
        step, micro, held_out = self.place
        return step, micro, held_out + 1


class _ProcessState(NamedTuple):
    """What torch keeps for all threads together."""

    cpu: Tensor
    gpus: list[Tensor]
    dtype: torch.dtype

    @classmethod
    def now(cls) -> _ProcessState:
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        return cls(torch.get_rng_state(), gpus, torch.get_default_dtype())

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        torch.set_default_dtype(self.dtype)
        if self.gpus:
            torch.cuda.set_rng_state_all(self.gpus)
