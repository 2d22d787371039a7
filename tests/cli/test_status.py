"""`distillkit status` while a run trains, after it was killed, after it failed and after it finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.status import as_text, read_status
from tests.faults.fixtures import Call, Start
from tests.faults.harness import Inputs, Recipe, Run

LONG = Recipe(more=("trainer.max_steps=100000", "trainer.val_check_interval=3"))


def test_status_follows_a_run_when_it_trains_is_killed_and_goes_on(
    inputs: Inputs, start: Start, call: Call, tmp_path: Path
) -> None:
    run = Run(tmp_path / "run")
    process = start(*LONG.words(inputs, every=2), f"run.dir={run.path}")
    process.wait_until(lambda: bool(run.checkpoints()) and read_status(str(run.path))["step"] >= 4)
    running = read_status(str(run.path))
    assert running["state"] == "running" and running["pid"] == process.pid
    assert 4 <= running["step"] < running["steps"] == 100_000 and running["seconds_left"] > 0
    assert {"mlm", "ce", "cos", "loss", "lr"} == set(running["train"])
    assert running["speed"]["tokens_per_second"] > 0 and 0 < running["speed"]["mfu"] < 1
    assert "running" in as_text(running) and "left" in as_text(running)
    process.kill()
    shown = call("status", str(run.path), "--json")
    stopped = json.loads(shown.out)
    assert shown.code == 0 and stopped["state"] == "stopped" and stopped["pid"] is None
    assert stopped["step"] >= running["step"] and stopped["checkpoint"] == run.checkpoints()[-1]
    assert "distillkit resume" in call("status", str(run.path)).out
    last = stopped["checkpoint"] + 1
    assert call("resume", str(run.path), f"trainer.max_steps={last}").code == 0
    finished = read_status(str(run.path))
    assert finished["state"] == "finished" and finished["step"] == finished["steps"] == last
    assert finished["held_out"]["mlm_loss"] > 0


def test_status_names_the_error_when_a_run_failed(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    words = [*LONG.words(inputs, every=2), f"run.dir={tmp_path / 'run'}"]
    assert call(*words, "optimizer.lr=1e30", "trainer.gradient_clip_val=null").code == 3
    found = read_status(str(tmp_path / "run"))
    assert found["state"] == "failed" and "finite" in found["error"]


@pytest.mark.parametrize("words", [[], ["nowhere"]])
def test_status_ends_with_2_when_there_is_no_run(words: list[str], call: Call) -> None:
    done = call("status", *words)
    assert done.code == 2 and done.err.startswith("error: RUN_DIR=") and done.err.count("\n") == 1


def test_probe_tells_time_and_memory_when_info_is_asked(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    words = ["info", *inputs.words(), "data.max_length=48", "data.batch_size=4", "trainer.max_steps=50", "--json"]

    def facts(*more: str) -> dict[str, Any]:
        done = call(*words, *more)
        assert done.code == 0, done.err
        return json.loads(done.out)

    once = facts("trainer.accumulate_grad_batches=1")["expected"]
    thrice = facts("trainer.accumulate_grad_batches=3")["expected"]
    assert once["train_seconds"] == pytest.approx(50 * once["seconds_per_step"])
    assert once["peak_memory_mb"] > 100 and once["evaluation_seconds"] > 0
    assert thrice["seconds_per_step"] > once["seconds_per_step"]
    assert "expected" not in facts("--no-probe")
    assert not list(Path.cwd().iterdir()), "info writes nothing"
