"""A job as a process of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from distillkit.sweeps.launchers import Job


def begin(job: Job, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Starts a job in a session of its own, which the terminal's Ctrl-C does not reach; its output goes to its log.

    Args:
        job: to start.
        environment: variables beside the job's and this process's.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {}), **job.environment},
        )  # fmt: skip


def run_job(job: Job) -> int:
    """Runs a job to its end, for launchers that do so on a worker; SIGTERM is passed on to it.

    Returns:
        Its exit code; negative: the signal that ended it.
    """
    asked = threading.Event()
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: Any) -> None:
        asked.set()
        if process is not None:
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        process = begin(job)
        if asked.is_set():  # while it was being started
            process.terminate()
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
