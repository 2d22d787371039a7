"""Every launcher runs jobs as real processes, several at once, and tells truly how each ended."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distillkit.errors import ConfigError
from distillkit.sweeps.launchers import Job, Launcher
from distillkit.sweeps.launchers.local import LocalLauncher
from distillkit.sweeps.launchers.process import run_job, stop_file
from distillkit.sweeps.launchers.ray import RayLauncher
from distillkit.sweeps.launchers.slurm import SlurmLauncher

pytestmark = pytest.mark.fault
SLOTS = 2
PATIENCE = 60.0
MAKERS: dict[str, Callable[..., Launcher]] = {
    "local": LocalLauncher,
    "slurm": lambda jobs: SlurmLauncher(jobs, cluster="local"),
    "ray": RayLauncher,
}
NEEDS = {"local": "distillkit", "slurm": "submitit", "ray": "ray"}
# submitit takes a second or two for each job, Ray ten to start
ON_WORKERS = [pytest.param(name, marks=[pytest.mark.slow, pytest.mark.ci]) for name in ("slurm", "ray")]


@pytest.fixture(scope="module")
def others() -> set[int]:
    """Processes that earlier tests have left below this one, such as a fork server."""
    return _children()


@pytest.fixture(scope="module", params=["local", *ON_WORKERS])
def launcher(request: pytest.FixtureRequest, others: set[int]) -> Iterator[Launcher]:
    library = NEEDS[request.param]
    pytest.importorskip(library, reason=f"{library} is not installed")
    made = MAKERS[request.param](jobs=SLOTS)
    yield made
    made.close()


def _job(folder: Path, key: str, code: str, **environment: str) -> Job:
    return Job(key, (sys.executable, "-c", code), folder / f"{key}.log", environment)


def _until(reached: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def _drive(launcher: Launcher, jobs: list[Job], each: Callable[[], None] = lambda: None) -> dict[str, int]:
    """Exit codes by key, of jobs that are started as slots become free."""
    waiting, running, codes = list(jobs), set[str](), dict[str, int]()

    def done() -> bool:
        while waiting and len(running) < launcher.slots:
            launcher.start(waiting[0])
            running.add(waiting.pop(0).key)
        ended = launcher.ended()
        assert set(ended) <= running, "told twice, or never started"
        running.difference_update(ended)
        codes.update(ended)
        each()
        return not waiting and not running

    _until(done)
    return codes


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


MEET = """
import os, pathlib, sys, time
folder = pathlib.Path({folder!r})
(folder / f"in_{{os.getpid()}}").touch()
end = time.time() + {patience}
while len(list(folder.glob("in_*"))) < 2 and time.time() < end:
    time.sleep(0.02)
print("at once", len(list(folder.glob("in_*"))), "pid", os.getpid(), flush=True)
"""


def test_jobs_are_processes_that_run_at_once_when_slots_are_free(launcher: Launcher, tmp_path: Path) -> None:
    code = MEET.format(folder=str(tmp_path), patience=PATIENCE)
    assert launcher.slots == SLOTS
    assert _drive(launcher, [_job(tmp_path, f"meet_{n}", code) for n in range(2)]) == {"meet_0": 0, "meet_1": 0}
    said = [(tmp_path / f"meet_{n}.log").read_text().split() for n in range(2)]
    assert all(words[:3] == ["at", "once", "2"] for words in said)
    pids = {int(words[-1]) for words in said}
    assert len(pids) == 2 and os.getpid() not in pids and not any(map(_alive, pids))


def test_every_end_is_told_once_and_truly_when_jobs_fail_in_their_ways(launcher: Launcher, tmp_path: Path) -> None:
    ways = {
        "done": ("print('fine')", 0),
        "number": ("raise SystemExit(3)", 3),
        "raised": ("raise ValueError('what went wrong')", 1),
        "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        "saved": ("raise SystemExit(143)", 143),
    }
    jobs = [_job(tmp_path, key, code) for key, (code, _) in ways.items()]
    jobs.append(Job("absent", (sys.executable, str(tmp_path / "absent.py")), tmp_path / "absent.log", {}))
    assert _drive(launcher, jobs) == {key: code for key, (_, code) in ways.items()} | {"absent": 2}
    assert launcher.ended() == {}
    assert "ValueError: what went wrong" in (tmp_path / "raised.log").read_text()


def test_job_gets_its_environment_and_appends_to_its_log_when_run(launcher: Launcher, tmp_path: Path) -> None:
    code = "import os, sys; print('out', os.environ['OWN']); print('err', file=sys.stderr)"
    (tmp_path / "said.log").write_text("before\n")
    assert _drive(launcher, [_job(tmp_path, "said", code, OWN="a b")]) == {"said": 0}
    lines = (tmp_path / "said.log").read_text().splitlines()
    assert lines[0] == "before" and set(lines[1:]) == {"out a b", "err"}


SAVES = """
import os, pathlib, signal, sys, time
def stop(*_):
    print("saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({ready!r}).write_text(f"{{os.getppid()}} ")
time.sleep({patience})
"""


def _saving(folder: Path, key: str) -> Job:
    return _job(folder, key, SAVES.format(ready=str(folder / f"{key}.ready"), patience=PATIENCE))


def test_stopped_job_alone_gets_sigterm_and_its_143_comes_back_when_asked(launcher: Launcher, tmp_path: Path) -> None:
    stopped, other = _saving(tmp_path, "stopped"), _saving(tmp_path, "other")
    launcher.start(stopped)
    launcher.start(other)
    _until(lambda: (tmp_path / "stopped.ready").exists() and (tmp_path / "other.ready").exists())
    launcher.stop("stopped")
    codes: dict[str, int] = {}
    _until(lambda: codes.update(launcher.ended()) or codes)
    assert codes == {"stopped": 143}
    assert "saved" in stopped.log.read_text() and "saved" not in other.log.read_text()
    launcher.stop("other")
    _until(lambda: codes.update(launcher.ended()) or len(codes) == 2)
    assert codes["other"] == 143 and not stop_file(stopped).exists() and not stop_file(other).exists()
    assert _drive(launcher, [_job(tmp_path, "stopped", "pass")]) == {"stopped": 0}, "a second start is not stopped"


@pytest.mark.parametrize("launcher", ON_WORKERS, indirect=True)
def test_job_counts_as_killed_when_its_worker_is(launcher: Launcher, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    code = f"import os, pathlib, time; pathlib.Path({str(ready)!r}).write_text(f'{{os.getpid()}} {{os.getppid()}}\\n')"
    launcher.start(_job(tmp_path, "orphan", f"{code}; time.sleep({PATIENCE})"))
    _until(lambda: ready.exists() and ready.read_text().endswith("\n"))
    child, worker = map(int, ready.read_text().split())
    assert worker != os.getpid()
    os.kill(worker, signal.SIGKILL)
    codes: dict[str, int] = {}
    try:
        _until(lambda: codes.update(launcher.ended()) or codes)
    finally:
        if _alive(child):
            os.kill(child, signal.SIGKILL)
    assert codes == {"orphan": -9}
    assert _drive(launcher, [_job(tmp_path, "next", "pass")]) == {"next": 0}, "the launcher goes on"


def test_close_ends_every_process_when_jobs_run(launcher: Launcher, others: set[int], tmp_path: Path) -> None:
    for key in ("a", "b"):
        launcher.start(_saving(tmp_path, key))
    _until(lambda: (tmp_path / "a.ready").exists() and (tmp_path / "b.ready").exists())
    assert _children() - others
    launcher.close()
    assert all("saved" in (tmp_path / f"{key}.log").read_text() for key in ("a", "b"))
    _until(lambda: not _children() - others)


def _children() -> set[int]:
    """Living processes below this one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(entry.parent.name)] = int(fields[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def test_job_never_begins_when_stopped_before_its_turn(tmp_path: Path) -> None:
    job = _job(tmp_path, "late", "print('began')")
    stop_file(job).touch()
    assert run_job(job) == 143 and not job.log.exists()


def test_job_has_no_rank_of_the_scheduler_when_run_by_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    job = _job(tmp_path, "rank", "import os; raise SystemExit('SLURM_NTASKS' in os.environ)")
    assert run_job(job) == 0


@pytest.mark.slow
@pytest.mark.ci
def test_preempted_slurm_job_continues_by_itself_when_signalled(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    launcher = SlurmLauncher(1, cluster="local")
    job = _saving(tmp_path, "long")._replace(again=(sys.executable, "-c", "print('continued')"))
    launcher.start(job)
    ready = tmp_path / "long.ready"
    _until(lambda: ready.exists() and ready.read_text().endswith(" "))
    os.kill(int(ready.read_text()), signal.SIGUSR2)  # as SLURM does before the time limit
    codes: dict[str, int] = {}
    _until(lambda: codes.update(launcher.ended()) or codes)
    assert codes == {"long": 0}, "the sweep saw one job"
    assert job.log.read_text().split() == ["saved", "continued"]
    launcher.close()


SBATCH = """#!/bin/sh
cp "$1" {folder}/script.sh
echo Submitted batch job 4711
"""


def test_batch_script_asks_for_time_gres_and_requeue_when_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    (bin_ := tmp_path / "bin").mkdir()
    for name, text in {"sbatch": SBATCH.format(folder=tmp_path), "srun": "#!/bin/sh\n"}.items():
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    launcher = SlurmLauncher(4, partition="gpu", gres="gpu:a100:1", cpus=6, mem_gb=24, minutes=90, signal_seconds=75,
                             setup=["module load cuda"], extra={"account": "lab"})  # fmt: skip
    launcher.start(_job(tmp_path, "arm", "pass"))
    script = (tmp_path / "script.sh").read_text()
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"time=90", "gres=gpu:a100:1", "requeue", "signal=USR2@75", "cpus-per-task=6", "mem=24GB",
            "partition=gpu", "account=lab", "open-mode=append", "nodes=1"} <= asked  # fmt: skip
    assert "module load cuda" in script.splitlines()
    assert "submitit.core._submit" in script and sys.executable in script


def test_launcher_is_refused_in_one_line_when_its_cluster_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="srun"):
        SlurmLauncher(1).start(_job(tmp_path, "arm", "pass"))
    with pytest.raises(ConfigError, match="cluster=pbs"):
        SlurmLauncher(1, cluster="pbs")


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_launcher_names_the_extra_when_its_library_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NEEDS[name], None)
    with pytest.raises(ConfigError, match=rf"pip install 'distillkit\[{name}\]'"):
        MAKERS[name](jobs=1)
