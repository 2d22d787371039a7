"""Arms as jobs of SLURM, through submitit."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distillkit.errors import ConfigError
from distillkit.sweeps.launchers import Job
from distillkit.sweeps.launchers.process import KILLED, STOPPED, run_job, stop_file

if TYPE_CHECKING:
    import submitit

_FOLDER = ".submitit"


class SlurmLauncher:
    """Each job is one SLURM job of one task. What submitit writes lies beside the logs, which all nodes must see.

    SLURM sends SIGUSR2 `signal_seconds` before the time limit, and at a preemption where the cluster says so
    (PreemptParameters=send_user_signal): the run saves, ends with 143, and the same SLURM job is queued again and
    continues it; the sweep sees one long job. SIGTERM (scancel, other preemptions) ends the job with 143, which the
    sweep is told.

    Args:
        jobs: SLURM jobs at once, queued or running.
        cluster: "slurm", or "local": submitit's processes on this machine, to try it without a cluster.
        partition: null: the cluster's own.
        gres: generic resources of a job, e.g. "gpu:1".
        cpus: cores of a job.
        mem_gb: memory of a job, GB.
        minutes: time limit of a job between two requeues.
        signal_seconds: from the signal to the end: what saving may take.
        max_requeues: at the time limit; a preemption does not count.
        setup: lines of the batch script before the command, e.g. "module load cuda".
        extra: further sbatch options by their long name, e.g. account.

    Raises:
        ConfigError: submitit is not installed, no such cluster, or no SLURM on this machine.
    """

    def __init__(
        self, jobs: int, cluster: str = "slurm", partition: str | None = None, gres: str | None = None, cpus: int = 1,
        mem_gb: float = 8, minutes: int = 60, signal_seconds: int = 120, max_requeues: int = 100,
        setup: Sequence[str] = (), extra: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if cluster not in ("slurm", "local"):
            raise ConfigError("no such cluster", key="launcher.cluster", value=cluster, allowed="slurm, local")
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise ConfigError(
                "submitit is not installed", key="launcher", value="slurm", fix="pip install 'distillkit[slurm]'"
            ) from None
        self.slots = jobs
        self._cluster, self._max_requeues = cluster, max_requeues
        self._parameters: dict[str, Any] = {
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "mem_gb": mem_gb,
            "name": "distillkit",
            "slurm_partition": partition,
            "slurm_gres": gres,
            "slurm_setup": list(setup) or None,
            "slurm_signal_delay_s": signal_seconds,
            "slurm_additional_parameters": {"requeue": True, **(extra or {})},
        }
        self._jobs: dict[str, tuple[Job, submitit.Job[int]]] = {}
        self._executor: submitit.AutoExecutor | None = None

    def start(self, job: Job) -> None:
        """Submits it."""
        stop_file(job).unlink(missing_ok=True)
        if self._executor is None:
            self._executor = self._made_executor(job)
        threads = {"OMP_NUM_THREADS": str(max(1, self._parameters["cpus_per_task"] // job.processes))}
        job = job._replace(environment={**threads, **job.environment})
        self._jobs[job.key] = job, self._executor.submit(_Task(), job)

    def ended(self) -> dict[str, int]:
        """As the protocol says; -9 for a job that SLURM has ended without a word of it: killed, node lost."""
        codes = {key: self._code(job, told) for key, (job, told) in self._jobs.items() if told.done()}
        for key in codes:
            job, _ = self._jobs.pop(key)
            stop_file(job).unlink(missing_ok=True)
        return codes

    def stop(self, key: str) -> None:
        """As the protocol says; a job that still waits for a node is cancelled."""
        job, told = self._jobs[key]
        stop_file(job).touch()
        if told.state == "PENDING":
            told.cancel(check=False)

    def close(self) -> None:
        """As the protocol says."""
        while self._jobs:
            for key in self._jobs:
                self.stop(key)  # again: what was running may have been queued again meanwhile
            self.ended()
            time.sleep(0.2)

    def _made_executor(self, job: Job) -> submitit.AutoExecutor:
        import submitit

        try:
            executor = submitit.AutoExecutor(
                job.log.parent / _FOLDER, cluster=self._cluster, slurm_max_num_timeout=self._max_requeues
            )
        except RuntimeError:  # it looks for srun
            raise ConfigError(
                "this machine has no srun", key="launcher.cluster", value=self._cluster,
                fix="start the sweep on a login node, or set launcher.cluster=local",
            ) from None  # fmt: skip
        executor.update_parameters(**{name: value for name, value in self._parameters.items() if value is not None})
        return executor

    def _code(self, job: Job, told: submitit.Job[int]) -> int:
        with contextlib.suppress(Exception):  # submitit tells an end without a result in many ways
            return told.result()
        never_began = stop_file(job).exists() and told.state.startswith("CANCELLED")
        return STOPPED if never_began else KILLED


class _Task:
    """What submitit pickles and runs on the node."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self, job: Job) -> int:
        """Runs it. Submitit's answer to the signal, to queue the job again at once, waits until the run has saved."""
        import submitit

        environment = submitit.JobEnvironment()
        if environment.paths.result_pickle.exists():
            return STOPPED  # SLURM has queued again, by itself, what had ended and told so: the sweep decides
        number = getattr(signal, f"SIG{environment.USR_SIG}")
        answer = signal.signal(number, self._ask)
        code = run_job(job, stopping=lambda: self._asked)
        signal.signal(number, answer)
        if self._asked and code == STOPPED and job.again and not stop_file(job).exists():
            signal.raise_signal(number)  # does not return
        return code

    def checkpoint(self, job: Job) -> submitit.helpers.DelayedSubmission:
        """Asked by submitit: what the SLURM job runs when its turn comes again."""
        import submitit

        return submitit.helpers.DelayedSubmission(_Task(), job._replace(command=job.again))

    def _ask(self, *_: Any) -> None:
        self._asked = True
