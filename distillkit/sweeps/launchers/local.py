"""Arms as processes of this machine, so many at a time."""

from __future__ import annotations

import os
import subprocess

from distillkit.errors import ConfigError
from distillkit.sweeps.launchers import Job
from distillkit.sweeps.launchers.process import begin

THREADS = "OMP_NUM_THREADS"


def threads_each(jobs: int) -> int | None:
    """Threads of each of so many jobs at once; None where nothing is divided: a single one, or OMP_NUM_THREADS set."""
    if jobs == 1 or THREADS in os.environ:
        return None
    return max(1, len(os.sched_getaffinity(0)) // jobs)


class LocalLauncher:
    """Starts jobs as processes that stop, saved, when this one ends.

    Args:
        jobs: at once. The cores are divided between them unless OMP_NUM_THREADS is set; a single one has them all, and
            rounds as the same run does by itself.

    Raises:
        ConfigError: jobs is no positive number.
    """

    def __init__(self, jobs: int = 1) -> None:
        if not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1:
            raise ConfigError("must be a positive whole number", key="launcher.jobs", value=jobs, allowed=">= 1")
        self.slots = jobs
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> None:
        """Starts a job; returns at once."""
        threads = threads_each(self.slots)
        environment = {} if threads is None else {THREADS: str(max(1, threads // job.processes))}
        self._running[job.key] = begin(job, environment)

    def ended(self) -> dict[str, int]:
        """Exit codes of jobs that have ended since the last call, by key; negative: the signal that ended it."""
        codes = {key: process.poll() for key, process in self._running.items()}
        ended = {key: code for key, code in codes.items() if code is not None}
        for key in ended:
            del self._running[key]
        return ended

    def stop(self, key: str) -> None:
        """Sends a job SIGTERM."""
        if key in self._running:
            self._running[key].terminate()

    def close(self) -> None:
        """Stops what still runs and waits for it, as long as the saving takes; `ended` tells of it."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
