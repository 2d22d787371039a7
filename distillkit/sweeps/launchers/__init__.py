"""Where arms run: each launcher starts a job as an operating-system process somewhere and tells how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol


class Job(NamedTuple):
    """A command to run.

    Attributes:
        key: names it, unique within the sweep.
        command: its words, the interpreter first.
        log: file its output is appended to.
        environment: variables beside those of the sweep.
        again: command that continues what ended with 143; a scheduler that requeues jobs by itself runs it. Empty:
            the sweep decides.
        processes: that the command starts of itself, each with its own threads: a run's ranks. They share its cores.
    """

    key: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]
    again: tuple[str, ...] = ()
    processes: int = 1


class Launcher(Protocol):
    """Conf files of the group launcher name one as _target_; its arguments are their keys."""

    slots: int
    """Jobs at once."""

    def start(self, job: Job) -> None:
        """Starts a job; returns at once."""

    def ended(self) -> dict[str, int]:
        """Exit codes of jobs that have ended since the last call, by key; negative: the signal that ended it."""

    def stop(self, key: str) -> None:
        """Sends a job SIGTERM, which a run answers by saving and ending with 143; it is told by `ended` as well."""

    def close(self) -> None:
        """Ends what still runs, as `stop` does, waits for it, and lets go of workers."""
