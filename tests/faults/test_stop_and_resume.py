"""Kills and SIGTERM at delicate moments: before and during the write of a checkpoint, in a step, in a validation."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.faults.fixtures import Call, Reference, Say, Start
from tests.faults.harness import CliProcess, Inputs, Recipe, Run, assert_identical

pytestmark = pytest.mark.fault

PLAIN = Recipe()
VALIDATING = Recipe(accumulate=4, more=("data.valid_fraction=0.3",))
"""Held-out batches of 3 rows, so that validation takes several of them."""


def in_validation(process: CliProcess) -> bool:
    """Whether the newest line it wrote is from the middle of a validation."""
    return process.stderr.rstrip().endswith("validating")


def test_resume_starts_anew_when_killed_before_the_first_checkpoint(
    inputs: Inputs, start: Start, tmp_path: Path, reference: Reference
) -> None:
    finished, run = reference(PLAIN), Run(tmp_path / "run")
    process = start(*PLAIN.words(inputs, every=1000), f"run.dir={run.path}")
    process.wait_until(lambda: process.step >= 3)
    process.kill()
    assert run.checkpoints() == []
    start("resume", str(run.path)).succeed()
    assert run.starts() == [0, 0]
    assert_identical(run, finished())


@pytest.mark.parametrize(
    "tmpdir",
    [
        pytest.param("/dev/shm", id="elsewhere", marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param(None, id="here", marks=pytest.mark.slow),
    ],
)
def test_resume_ends_identical_when_killed_while_a_checkpoint_is_written(
    tmpdir: str | None, inputs: Inputs, start: Start, say: Say, tmp_path: Path, reference: Reference
) -> None:
    environment = {"TMPDIR": tmpdir or str(tmp_path)}
    finished = reference(PLAIN)
    for attempt in range(4):
        run = Run(tmp_path / f"run{attempt}")
        process = start(*PLAIN.words(inputs, every=1), f"run.dir={run.path}", environment=environment)
        process.wait_until(lambda run=run: len(run.checkpoints()) > 1 and run.leftovers())  # type: ignore[misc]
        process.kill()
        say(f"killed while writing or removing {[p.name for p in run.leftovers()]} at step {process.step}")
        if run.leftovers():
            break
    assert run.leftovers(), "the machine was too busy to kill during a write"
    start("resume", str(run.path), "checkpoint.every_n_steps=1000", environment=environment).succeed()
    assert run.leftovers() == []
    assert_identical(run, finished())


@pytest.mark.slow
@pytest.mark.ci
def test_resume_ends_identical_when_killed_during_validation(
    inputs: Inputs, start: Start, tmp_path: Path, reference: Reference
) -> None:
    finished, run = reference(VALIDATING), Run(tmp_path / "run")
    process = start(*VALIDATING.words(inputs, every=1), f"run.dir={run.path}")
    process.wait_until(lambda: in_validation(process))
    process.kill()
    assert in_validation(process), "the validation had ended"
    start("resume", str(run.path)).succeed()
    assert_identical(run, finished())


@pytest.mark.parametrize("moment", ["step", pytest.param("validation", marks=[pytest.mark.slow, pytest.mark.ci])])
def test_sigterm_saves_a_whole_step_and_exits_143_when_accumulating(
    moment: str, inputs: Inputs, start: Start, say: Say, tmp_path: Path, reference: Reference
) -> None:
    finished, run = reference(VALIDATING), Run(tmp_path / "run")
    process = start(*VALIDATING.words(inputs, every=1000), f"run.dir={run.path}")
    process.wait_until(lambda: in_validation(process) if moment == "validation" else process.step >= 2)
    process.signal(signal.SIGTERM)
    step, began = process.step, time.monotonic()
    assert process.wait() == 143, process.stderr
    saved = run.checkpoints()[-1]
    say(f"SIGTERM at step {step}, saved at {saved}, ended after {time.monotonic() - began:.2f} s")
    assert step <= saved <= step + 2
    assert run.state(saved)["global_step"] == saved
    assert f"stopped after step {saved} and saved" in process.stderr.splitlines()[-1]
    start("resume", str(run.path)).succeed()
    assert run.starts() == [0, saved]
    assert_identical(run, finished())


def test_run_folder_is_refused_naming_the_pid_when_in_use(
    inputs: Inputs, start: Start, call: Call, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    process = start(*PLAIN.words(inputs, every=1), f"run.dir={run.path}")
    process.wait_until(lambda: process.step >= 1)
    process.signal(signal.SIGSTOP)
    for words in (["resume", str(run.path)], [*PLAIN.words(inputs, every=1), f"run.dir={run.path}"]):
        result = call(*words)
        assert result.code == 2
        assert result.err.startswith("error: ") and str(process.pid) in result.err
    process.kill()
    assert "holds a run already" in call(*PLAIN.words(inputs, every=1), f"run.dir={run.path}").err
    assert call("resume", str(run.path)).code == 0, "a killed holder must free its folder"
