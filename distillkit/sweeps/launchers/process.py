"""A job as a process: of this machine, or of a worker somewhere else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from distillkit.launching import PARENT
from distillkit.sweeps.launchers import Job

STOPPED, KILLED = 143, -9
"""Exit codes of a job that was stopped before its process began, and of one whose worker is gone."""

_POLL_SECONDS = 0.2
_OF_SCHEDULERS = ("SLURM_", "SUBMITIT_")


def stop_file(job: Job) -> Path:
    """Its presence asks a job to stop. A file, because a signal does not reach another machine, but the log does."""
    return job.log.with_suffix(".stop")


def begin(job: Job, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a job, whose output goes to its log; as a run it stops by itself, saved, when this process dies.

    It has a session of its own, because terminals and schedulers signal whole process groups, and none of a scheduler's
    variables, which Lightning would take for a rank of a larger run.

    Args:
        job: to start.
        environment: variables beside the job's and this process's.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_SCHEDULERS)}
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**kept, PARENT: str(os.getpid()), **(environment or {}), **job.environment},
        )  # fmt: skip


def run_job(job: Job, stopping: Callable[[], bool] = lambda: False) -> int:
    """Begins a job here and waits for it. SIGTERM, the job's stop file and `stopping` reach its process as SIGTERM.

    Args:
        job: to run.
        stopping: asked now and then whether the job is to stop.

    Returns:
        Its exit code; negative: the signal that ended it; STOPPED, without a process, when it was to stop already.
    """
    stop = stop_file(job)
    if stop.exists() or stopping():
        return STOPPED
    process = begin(job)
    try:
        with _forwarded(process):
            return _wait(process, lambda: stop.exists() or stopping())
    finally:
        if process.poll() is None:  # this process is ending, by an exception
            process.terminate()
            process.wait()


def _wait(process: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> int:
    asked = False
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL_SECONDS)
        if not asked and stopping():
            process.terminate()
            asked = True


@contextlib.contextmanager
def _forwarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hands SIGTERM on. Python allows that in the main thread only, where both submitit and Ray run their tasks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
