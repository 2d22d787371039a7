"""Sweeps of real runs: arms that fail in every way, and a sweep that is killed from outside."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillkit.locking import holder
from distillkit.sweeps.arms import Arm, Ledger
from tests.faults.fixtures import Say, Start
from tests.faults.harness import CliProcess, Inputs, Recipe, Run, assert_identical
from tests.faults.wandb_records import sessions

pytestmark = pytest.mark.fault

FAULTS = textwrap.dedent("""
    import os, resource, signal, sys
    import pytorch_lightning as pl
    import torch

    class Fault(pl.Callback):
        def __init__(self, how, healed):
            self.how, self.healed = how, healed

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2 and self.how != "none" and not os.path.exists(self.healed):
                getattr(self, self.how)(pl_module)

        def exception(self, module):
            raise ValueError("a made fault")

        def exit(self, module):
            os._exit(9)

        def kill(self, module):
            os.kill(os.getpid(), signal.SIGKILL)

        def infinite(self, module):
            with torch.no_grad():
                next(module.parameters()).fill_(float("nan"))

        def memory(self, module):
            used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + 50_000_000, resource.RLIM_INFINITY))
            torch.ones(100_000_000)

        def hang(self, module):
            signal.pause()

        def value(self, module):
            raise AssertionError("not reached: this arm's value is wrong from the start")
    """)
WAYS = {
    "exception": ("a made fault", 1), "exit": ("ended with exit code 9", 9), "kill": ("signal 9 (SIGKILL)", -9),
    "infinite": ("not finite", 3), "memory": ("memory", 1), "value": ("no such file", 2),
}  # fmt: skip
"""Those that end by themselves; one that hangs is killed from outside."""


SHARED = "sweep.shared_pass=2"
"""Arms in pairs, each pair a process."""


def words(inputs: Inputs, *, steps: int, every: int = 2) -> list[str]:
    """Of a sweep of tiny runs."""
    recipe = Recipe(more=("run.evaluation_batches=1", "trainer.limit_val_batches=0"))
    return [*recipe.words(inputs, every=every)[1:], f"trainer.max_steps={steps}", "launcher.jobs=2"]


def ledger_at(place: Path) -> Ledger:
    return Ledger.read(place)


def run_of(place: Path, arm: Arm) -> Run:
    return Run(place / arm.folder)


def with_faults(inputs: Inputs, place: Path, good: int, ways: list[str]) -> tuple[list[str], dict[str, str]]:
    """A sweep of arms that work and arms that fail until the file `healed` is there; and its environment."""
    (place / "conf" / "sweep").mkdir(parents=True)
    (place / "made_faults.py").write_text(FAULTS)
    missing = place / "later.txt"
    node = "{_target_: made_faults.Fault, how: %s, healed: " + str(place / "healed") + "}"
    arms: dict[str, list[str]] = {f"good_{n}": [f"optimizer.lr={(n + 1) * 1e-4}"] for n in range(good)}
    for way in ways:
        arms[way] = [f"data.path={missing}"] if way == "value" else [f"+callbacks.fault={node.replace('%s', way)}"]
    told = {"defaults": ["base"], "name": "faults", "arms": arms}
    (place / "conf" / "sweep" / "faults.yaml").write_text(json.dumps(told))
    typed = ["sweep", *words(inputs, steps=4 if good < 5 else 20, every=3), "sweep=faults", "--config-dir",
             str(place / "conf"), "run.trusted_modules=[made_faults]", f"run.dir={place / 'sweep'}"]  # fmt: skip
    return typed, {"PYTHONPATH": f"{inputs.environment()['PYTHONPATH']}{os.pathsep}{place}"}


@pytest.mark.parametrize(
    ("good", "ways", "more"),
    [
        pytest.param(1, ["kill", "value"], [], id="few", marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param(
            2, ["exception", "infinite"], [SHARED], id="one-process", marks=[pytest.mark.slow, pytest.mark.ci]
        ),
        pytest.param(18, list(WAYS), [], id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_other_arms_are_done_and_only_the_failed_run_again_when_arms_fail(
    good: int, ways: list[str], more: list[str], inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    typed, environment = with_faults(inputs, tmp_path, good, ways)
    typed += more
    first = start(*typed, environment=environment)
    assert first.wait(1500) == 5, first.stderr
    ledger = ledger_at(tmp_path / "sweep")
    assert {arm.name for arm in ledger.with_status("done")} == {f"good_{n}" for n in range(good)}
    failed = {arm.name: arm for arm in ledger.with_status("failed")}
    assert set(failed) == set(ways)
    for way, arm in failed.items():
        reason, code = WAYS[way]
        assert reason in str(arm.reason) and arm.exit_code == code, arm
        assert f"{way}, seed 0: failed, " in first.stderr and str(arm.reason) in first.stderr
    assert first.stdout.count("0 of 1: 1 failed") == len(ways), "the table names them too"
    (tmp_path / "healed").touch()
    (tmp_path / "later.txt").write_text(inputs.corpus.read_text())
    second = start(*typed, "--retry-failed", environment=environment)
    assert second.wait(1500) == 0, second.stderr
    ledger = ledger_at(tmp_path / "sweep")
    assert {arm.status for arm in ledger.arms} == {"done"}
    assert {arm.name for arm in ledger.arms if arm.attempts == 2} == set(ways)


@pytest.mark.parametrize(
    ("alphas", "steps", "more"),
    [
        pytest.param("0,1", 8, [], id="few", marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param("1,2,3,4", 16, [SHARED], id="one-process", marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param("0,1,2,3,4,5", 20, [], id="many", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_sweep_loses_and_repeats_nothing_when_it_is_killed_and_started_again(
    alphas: str, steps: int, more: list[str], inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    place = tmp_path / "sweep"
    typed = ["sweep", *words(inputs, steps=steps), f"loss.alpha={alphas}", f"run.dir={place}", *more]
    process = start(*typed)
    process.wait_until(lambda: any(Run(path).checkpoints() for path in place.glob("arms/*_seed_0")), seconds=400)
    process.kill()
    left = ledger_at(place)
    running = left.with_status("running")
    assert running and len(left.with_status("done")) < len(left.arms), "nothing was killed"
    say(f"sweep {process.pid} killed with {len(running)} arms running")
    again = start(*typed)
    assert again.wait(1500) == 0, again.stderr
    ledger = ledger_at(place)
    assert {arm.status for arm in ledger.arms} == {"done"}
    for arm in ledger.arms:
        run = run_of(place, arm)
        assert holder(run.path) is None
        for session, step in enumerate(run.starts()):
            saved = [0, *(event["step"] for event in run.events("checkpoint"))]
            assert step in saved, f"session {session} of {arm.name} began at {step}, not at a checkpoint"
        saves = [event["step"] for event in run.events("checkpoint")]
        assert saves == sorted(set(saves)), f"{arm.name} trained steps twice: {saves}"
    arm = running[0]
    alone = Run(tmp_path / "alone")
    plain = start("train", *ledger.shared, *arm.words, f"seed={arm.seed}", f"run.dir={alone.path}")
    plain.wait(300)
    assert_identical(run_of(place, arm), alone)
    hashes = [start("hash", str(path)).succeed().stdout for path in (run_of(place, arm).path, alone.path)]
    assert hashes[0] == hashes[1]


@pytest.mark.slow
@pytest.mark.ci
def test_arm_stops_and_saves_when_its_sweep_is_killed(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    typed = ["sweep", *words(inputs, steps=100_000, every=100_000), "checkpoint.keep_last=1000", f"run.dir={place}"]
    process = start(*typed)
    run = Run(place / "arms" / "000_train_seed_0")
    process.wait_until(lambda: len(run.figures()) > 2, seconds=200)
    pid = holder(run.path)
    assert pid is not None
    process.kill()
    wait_for_end(pid)
    saved = run.checkpoints()
    assert saved and run.events("checkpoint") and not run.events("finish")
    log = (place / "arms" / "000_train_seed_0.log").read_text()
    assert f"stopped after step {saved[-1]} and saved" in log


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_arms_of_one_process_end_as_alone_when_it_is_stopped_then_killed_and_one_is_resumed_by_hand(
    inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    place = tmp_path / "sweep"
    typed = ["sweep", *words(inputs, steps=60, every=1000), "loss.alpha=1,2", f"run.dir={place}", SHARED]
    runs = [Run(place / "arms" / f"00{number}_alpha-{alpha}_seed_0") for number, alpha in enumerate((1, 2))]

    def train_on(process: CliProcess, steps: int) -> None:
        process.wait_until(lambda: all(len(run.figures()) > steps for run in runs), seconds=300)

    first = start(*typed)
    train_on(first, 2)
    first.signal(signal.SIGTERM)
    assert first.wait(300) == 143, first.stderr
    saved = [run.checkpoints() for run in runs]
    assert all(len(steps) == 1 and 0 < steps[0] < 60 for steps in saved), "saved between two checkpoints"
    second = start(*typed)
    second.wait_until(lambda: all(len(run.starts()) == 2 for run in runs), seconds=300)
    train_on(second, max(step for (step,) in saved) + 1)
    pid = holder(runs[0].path)
    assert pid is not None and pid == holder(runs[1].path), "one process"
    os.kill(pid, signal.SIGKILL)
    assert second.wait(300) == 5, second.stderr
    assert [arm.exit_code for arm in ledger_at(place).arms] == [-9, -9]
    start("resume", str(runs[0].path)).succeed()
    third = start(*typed, "--retry-failed")
    assert third.wait(300) == 0, third.stderr
    ledger = ledger_at(place)
    assert [arm.status for arm in ledger.arms] == ["done", "done"]
    for arm, run, (step,) in zip(ledger.arms, runs, saved, strict=True):
        assert run.starts() == [0, step, step]
        alone = Run(tmp_path / f"alone_{arm.number}")
        start("train", *ledger.shared, *arm.words, f"seed={arm.seed}", f"run.dir={alone.path}").succeed()
        assert_identical(run, alone)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.timeout(900)
def test_wandb_has_a_group_a_name_and_an_end_for_each_arm_when_some_fail(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    typed, environment = with_faults(inputs, tmp_path, 1, ["infinite", "hang"])
    typed[typed.index("logger=none")] = "logger=wandb"
    place = tmp_path / "sweep"
    process = start(*typed, environment=environment)
    hangs = Run(place / "arms" / "002_hang_seed_0")
    process.wait_until(lambda: bool(hangs.figures()), seconds=400)
    time.sleep(5)  # W&B itself would write every 15 s
    pid = holder(hangs.path)
    assert pid is not None, "nothing to kill"
    os.kill(pid, signal.SIGKILL)
    say(f"arm {pid} killed")
    assert process.wait(300) == 5, process.stderr
    ledger = ledger_at(place)
    assert [arm.exit_code for arm in ledger.arms] == [0, 3, -9], ledger.arms
    parts = [sessions(run_of(place, arm).path) for arm in ledger.arms]
    assert all(len(own) == 1 for own in parts)
    logged = [own[0] for own in parts]
    assert [part.exit_code for part in logged] == [0, 3, None], "none: W&B shows it as crashed"
    assert logged[2].rows, "what it had logged some seconds before it was killed"
    assert len({part.id for part in logged}) == 3
    assert [part.name for part in logged] == ["000_good_0_seed_0", "001_infinite_seed_0", "002_hang_seed_0"]
    assert len({part.group for part in logged}) == 1 and logged[0].group.startswith("faults-")
    for arm, part in zip(ledger.arms, logged, strict=True):
        settled = yaml.safe_load((run_of(place, arm).path / "config.yaml").read_text())
        assert {name: part.config[name] for name in settled} == settled
    assert [part.config["optimizer"]["lr"] == 1e-4 for part in logged] == [True, False, False]


def wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 120
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "outlives its sweep"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.ci
def test_sweep_ends_with_143_and_continues_when_it_gets_sigterm(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    place = tmp_path / "sweep"
    typed = ["sweep", *words(inputs, steps=60, every=1000), "loss.alpha=1", f"run.dir={place}"]
    process = start(*typed)
    run = Run(place / "arms" / "000_train_seed_0")
    process.wait_until(lambda: len(run.figures()) > 2, seconds=200)
    process.signal(signal.SIGTERM)
    assert process.wait(200) == 143, process.stderr
    assert ledger_at(place).arms[0].status == "preempted" and run.checkpoints()
    assert "stopped; the arms are saved" in process.stderr.splitlines()[-1]
    again = start(*typed, "--json").succeed()
    told: dict[str, Any] = json.loads(again.stdout)
    assert told["arms"][0]["status"] == "done" and run.starts()[-1] > 0
    status = CliProcess("status", str(place), inputs=inputs, log=tmp_path / "status").succeed()
    assert "1 done" in status.stdout
