"""Runs that cannot go on: numbers that are not finite, dead data workers, storage that refuses."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from distillkit.training.checkpointing import verify
from tests.faults.fixtures import Call, Say, Start
from tests.faults.harness import CliProcess, Inputs, Recipe, Run

pytestmark = pytest.mark.fault

FOREVER = Recipe(more=("trainer.max_steps=100000", "checkpoint.keep_last=1000"))


def assert_error(process: CliProcess, code: int, *parts: str) -> None:
    """It ended with that code and, as its last line, an error that holds the parts."""
    assert process.wait() == code, process.stderr
    last = process.stderr.splitlines()[-1]
    assert last.startswith("error: ") and all(part in last for part in parts), process.stderr
    assert "Traceback" not in process.stderr


def all_finite(node: object) -> bool:
    """Whether every tensor in a nest is finite."""
    if isinstance(node, torch.Tensor):
        return bool(node.isfinite().all())
    if isinstance(node, dict):
        return all(map(all_finite, node.values()))
    return all(map(all_finite, node)) if isinstance(node, list | tuple) else True


@pytest.mark.parametrize("fused", ["true", "false"])
def test_run_stops_with_3_and_finite_checkpoints_when_the_loss_explodes(
    fused: str, inputs: Inputs, call: Call, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    result = call(
        *Recipe().words(inputs, every=1), f"run.dir={run.path}", "optimizer.lr=1e30", f"optimizer.fused={fused}",
        "trainer.gradient_clip_val=null", "trainer.log_every_n_steps=1000", "scheduler.warmup_steps=3",
    )  # fmt: skip
    assert result.code == 3
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ") and "is not finite at step" in last
    assert run.checkpoints()
    assert all(all_finite(run.state(step)) for step in run.checkpoints())
    assert not run.events("finish")


def test_run_stops_with_4_in_seconds_when_a_data_worker_is_killed(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    process = start(*FOREVER.words(inputs, every=50, workers=2), f"run.dir={run.path}")
    process.wait_until(lambda: process.step >= 3)
    worker = process.children()[-1]
    os.kill(worker, signal.SIGKILL)
    began = time.monotonic()
    process.wait(10)
    say(f"worker {worker} killed at step {process.step}, ended after {time.monotonic() - began:.2f} s")
    assert_error(process, 4, "data worker")


@pytest.mark.parametrize("workers", [0, 2])
def test_run_stops_with_4_and_keeps_earlier_checkpoints_when_a_file_may_not_grow(
    workers: int, inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    process = start(*FOREVER.words(inputs, every=2, workers=workers), f"run.dir={run.path}")
    process.wait_until(lambda: len(run.checkpoints()) >= 2)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (50_000, 50_000))
    assert_error(process, 4, "cannot be written", "checkpoints/step_")
    assert_whole(run)


def test_run_stops_with_4_when_its_log_may_not_grow(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    words = [*FOREVER.words(inputs, every=1000), "trainer.limit_val_batches=0", f"run.dir={run.path}"]
    process = start(*words, "callbacks.progress.seconds_between_lines=1000")  # the limit is for its screen as well
    process.wait_until(lambda: (run.path / "metrics.csv").exists())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, 3000))
    assert_error(process, 4, "metrics.csv")


def test_run_stops_with_4_and_resumes_when_the_disk_was_full(
    inputs: Inputs, start: Start, say: Say, small_disk: Path, tmp_path: Path
) -> None:
    run = Run(small_disk / "run")
    process = start(*FOREVER.words(inputs, every=2), f"run.dir={run.path}")
    assert_error(process, 4, "the disk is full", "MB free", "distillkit resume")
    newest = run.checkpoints()[-1]
    say(f"full at step {process.step} with checkpoint {newest}")
    assert_whole(run)
    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    start("resume", str(run.path), f"trainer.max_steps={newest + 2}").succeed()
    assert run.starts() == [0, newest]


def assert_whole(run: Run) -> None:
    """Checkpoints were made, all of them verify, nothing else is beside them and none of the run was finished."""
    assert run.checkpoints() and not run.leftovers()
    for step in run.checkpoints():
        verify(run.checkpoint(step))
    assert not run.events("finish")


@pytest.mark.parametrize("place", ["below_a_file", "read_only"])
def test_run_stops_with_4_before_anything_is_loaded_when_its_folder_cannot_be_made(
    place: str, inputs: Inputs, call: Call, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    parent = tmp_path / "file"
    if place == "below_a_file":
        parent.write_text("")
    else:
        parent = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", parent], check=True)
    monkeypatch.setattr("distillkit.run.build", lambda cfg: pytest.fail("something was loaded"))
    result = call(*Recipe().words(inputs, every=1), f"run.dir={parent / 'run'}")
    assert result.code == 4
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: run.dir={parent / 'run'}: ")
