"""Arms as processes of this machine."""

from __future__ import annotations

import os
import subprocess

from distillkit.sweeps.launchers import Job


class LocalLauncher:
    """Stand-in for helper A's: the shared tests need one."""

    def __init__(self, jobs: int) -> None:
        self.slots, self._jobs = jobs, dict[str, subprocess.Popen[bytes]]()

    def start(self, job: Job) -> None:
        with job.log.open("ab") as log:
            self._jobs[job.key] = subprocess.Popen(
                job.command, stdout=log, stderr=log, env={**os.environ, **job.environment}, start_new_session=True
            )

    def ended(self) -> dict[str, int]:
        codes = {key: code for key, job in self._jobs.items() if (code := job.poll()) is not None}
        for key in codes:
            del self._jobs[key]
        return codes

    def stop(self, key: str) -> None:
        self._jobs[key].terminate()

    def close(self) -> None:
        for key in self._jobs:
            self.stop(key)
        for job in self._jobs.values():
            job.wait()
        self._jobs.clear()
