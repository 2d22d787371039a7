"""Arms as tasks of Ray, on a running cluster or on a local one of its own."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from distillkit.errors import ConfigError
from distillkit.sweeps.launchers import Job
from distillkit.sweeps.launchers.local import THREADS
from distillkit.sweeps.launchers.process import KILLED, run_job, stop_file


class RayLauncher:
    """Each job is a task of one worker, which runs it as a process. All nodes see the folder of the logs.

    Args:
        jobs: at once.
        cpus_per_arm: cores that Ray sets aside for a job.
        gpus_per_arm: devices that Ray sets aside for a job, and makes the only ones it sees.
        address: of a running cluster, e.g. "auto" on one of its nodes; null: a local one with room for `jobs`.

    Raises:
        ConfigError: Ray is not installed, the cluster does not answer or has no room for a single job.
    """

    def __init__(self, jobs: int, cpus_per_arm: float = 1, gpus_per_arm: float = 0, address: str | None = None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when imported
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # announces its default otherwise
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "Ray is not installed", key="launcher", value="ray", fix="pip install 'distillkit[ray]'"
            ) from None
        self.slots = jobs
        room: dict[str, Any] = {"address": address}
        if address is None:  # nothing listens on any address but this machine's own
            room = {"address": "local", "_node_ip_address": "127.0.0.1", "include_dashboard": False,
                    "num_cpus": max(1, round(jobs * cpus_per_arm + 0.49)), "num_gpus": jobs * gpus_per_arm}  # fmt: skip
        try:
            ray.init(**room, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(
                f"no cluster answers ({error})", key="launcher.address", value=address, fix="ray start --head"
            ) from None
        self._ray, self._cpus = ray, cpus_per_arm
        self._check_room(cpus_per_arm, gpus_per_arm)
        # a job that has lost its worker is the sweep's to start again, so that it is counted
        self._task = ray.remote(
            num_cpus=cpus_per_arm, num_gpus=gpus_per_arm, max_retries=0, scheduling_strategy="SPREAD"
        )(run_job)
        self._jobs: dict[str, tuple[Job, Any]] = {}

    def start(self, job: Job) -> None:
        """As the protocol says."""
        stop_file(job).unlink(missing_ok=True)
        if THREADS not in os.environ:  # else Ray gives each of its processes as many as the job has cores
            job = job._replace(environment={THREADS: str(max(1, int(self._cpus) // job.processes)), **job.environment})
        self._jobs[job.key] = job, self._task.remote(job)

    def ended(self) -> dict[str, int]:
        """As the protocol says; -9 for a job whose worker or node is gone."""
        tasks = [task for _, task in self._jobs.values()]
        done, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0) if tasks else ([], [])
        codes = {key: self._code(task) for key, (_, task) in self._jobs.items() if task in done}
        for key in codes:
            job, _ = self._jobs.pop(key)
            stop_file(job).unlink(missing_ok=True)
        return codes

    def stop(self, key: str) -> None:
        """As the protocol says."""
        stop_file(self._jobs[key][0]).touch()

    def close(self) -> None:
        """As the protocol says; a running cluster runs on."""
        for key in self._jobs:
            self.stop(key)
        while self._jobs:
            self.ended()
            time.sleep(0.1)
        self._ray.shutdown()

    def _check_room(self, cpus: float, gpus: float) -> None:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            self._ray.shutdown()
            raise ConfigError(
                "no node of the cluster has room for a job", key="launcher", value=f"{cpus} cores, {gpus} devices",
                fix="lower launcher.cpus_per_arm or launcher.gpus_per_arm",
            )  # fmt: skip

    def _code(self, task: Any) -> int:
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayError:
            return KILLED
