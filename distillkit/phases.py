"""Where a training step's time goes, and what to change when a part takes too much.

One clock runs at a time in a thread, for the run that trains there; where none runs, `phase` costs little.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

PHASES = ("data", "teacher", "forward", "loss", "backward", "optimizer", "checkpoint")
"""What a step does: waits for its batch, runs the teacher and the student, computes the loss with the heads and their
gradient, goes backwards through the student, clips and updates; now and then a checkpoint is written."""
OTHER, PAUSED = "other", "paused"
NAMES = {
    "data": "waiting for data",
    "teacher": "teacher",
    "forward": "student forward",
    "loss": "loss with heads",
    "backward": "student backward",
    "optimizer": "clip and update",
    "checkpoint": "checkpoints",
    OTHER: "around it",
}
"""What a reader sees, in the order of a step."""
_PENDING = 1000
"""Marks kept before those that the device has passed are added up."""


class Mark(Protocol):
    """A moment on a device's timeline; torch.cuda.Event is one."""

    def query(self) -> bool: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any) -> float: ...


class HostMark:
    """A moment of a device that works as it is told: the CPU."""

    def __init__(self) -> None:
        self.seconds = time.perf_counter()

    def query(self) -> bool:
        """Whether it has passed."""
        return True

    def synchronize(self) -> None:
        """Waits for it."""

    def elapsed_time(self, end_event: HostMark) -> float:
        """Milliseconds to a later one."""
        return (end_event.seconds - self.seconds) * 1000


def _cuda_mark() -> Mark:
    import torch  # late: `status` reads the names above and needs no torch

    mark = torch.cuda.Event(enable_timing=True)
    mark.record()
    return mark


class PhaseClock:
    """Divides a device's time among the phases: a mark at each change of phase, read only when somebody looks.

    On a GPU the marks are CUDA events in the stream of the work, so that no step waits for one. The time of a phase is
    then the device's: a wait for data that its queue of work hides counts as nothing.

    Args:
        device: the one that trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._mark = _cuda_mark if device.type == "cuda" else HostMark
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, Mark]] = [(OTHER, self._mark())]

    def switch(self, name: str) -> str:
        """Begins a phase, which ends the one before; returns that one's name."""
        before = self._marks[-1][0]
        self._marks.append((name, self._mark()))
        if len(self._marks) > _PENDING:
            self._add_up()
        return before

    def read(self) -> dict[str, float]:
        """Seconds of each of PHASES and of OTHER since the last reading; what was PAUSED is left out."""
        self.switch(self._marks[-1][0])
        self._marks[-1][1].synchronize()
        self._add_up()
        found = {name: self._seconds.get(name, 0.0) for name in (*PHASES, OTHER)}
        self._seconds = {}
        return found

    def _add_up(self) -> None:
        """Adds up what lies between marks that the device has passed, and forgets those."""
        done = 0
        for (name, begin), (_, end) in pairwise(self._marks):
            if not end.query():
                break
            self._seconds[name] = self._seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
            done += 1
        del self._marks[:done]


class _Phase:
    def __init__(self, clock: PhaseClock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.before = self.clock.switch(self.name)

    def __exit__(self, *error: object) -> None:
        self.clock.switch(self.before)


class _Here(threading.local):
    clock: PhaseClock | None = None


_here = _Here()
_NOTHING = nullcontext()


def run_clock(clock: PhaseClock | None) -> None:
    """Lets the phases of this thread count on a clock from here on; None: on no clock."""
    _here.clock = clock


def phase(name: str) -> AbstractContextManager[None]:
    """The block is part of a phase; inside another phase it takes its time from that one.

    Args:
        name: one of PHASES, or PAUSED.
    """
    clock = _here.clock
    return _NOTHING if clock is None else _Phase(clock, name)


# --- what to change ----------------------------------------------------------------------------------------------

_LIMITS = {"data": 0.1, "checkpoint": 0.1, OTHER: 0.15, "teacher": 0.3, "loss": 0.35, "optimizer": 0.2}
"""Share of a step from which a phase is worth a change, in the order in which the changes are easy to make."""


def shares(seconds: Mapping[str, float], least: float = 0.05) -> str:
    """The phases that take the most, such as "student backward 41%, teacher 20%".

    Args:
        seconds: of each phase.
        least: share of the whole from which a phase is named.
    """
    total = sum(seconds.values()) or 1.0
    largest = sorted(((value / total, NAMES[name]) for name, value in seconds.items()), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in largest if share >= least)


def advise(seconds: Mapping[str, float], config: Mapping[str, Any]) -> str:
    """One sentence that says what to change first.

    Args:
        seconds: of each phase, of a step or of a whole run.
        config: the run's, settled.

    Returns:
        Such as "Waiting for data takes 23% of a step: raise data.num_workers (now 0)."
    """
    total = sum(seconds.values()) or 1.0
    for name, limit in _LIMITS.items():
        share = seconds.get(name, 0.0) / total
        if share > limit and (change := _change(name, config)):
            return f"{change[0]} takes {share:.0%} of a step: {change[1]}."
    if str(config["trainer"]["precision"]).startswith("32"):
        return "Most of a step is arithmetic in float32: try trainer.precision=bf16-mixed."
    return "Most of a step is the models' own arithmetic: a smaller student or shorter rows are what is left."


def _change(name: str, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a phase is called in a sentence and what shortens it; None where that is done already."""
    data, trainer, teacher = config["data"], config["trainer"], config["teacher"]
    if name == "data":
        return "Waiting for data", f"raise data.num_workers (now {data['num_workers']})"
    if name == "checkpoint":
        return "Writing checkpoints", f"raise checkpoint.every_n_steps (now {config['checkpoint']['every_n_steps']})"
    if name == OTHER:
        return "What surrounds the steps", f"raise trainer.log_every_n_steps (now {trainer['log_every_n_steps']})"
    if name == "teacher" and teacher.get("cache", "no such key") is None:
        return "The teacher", "keep its states with teacher.cache=DIR when the run has several epochs"
    if name == "teacher" and not teacher.get("cache") and teacher.get("dtype") == "float32":
        return "The teacher", "set teacher.dtype=bfloat16"
    if name == "loss" and config["loss"]["positions"] == "all":
        return "The loss", "set loss.positions=predicted"
    if name == "optimizer":
        batches = trainer["accumulate_grad_batches"]
        return "The update", f"raise data.batch_size or trainer.accumulate_grad_batches (now {batches})"
    return None
