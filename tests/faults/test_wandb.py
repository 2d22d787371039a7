"""Whole runs logged to W&B: killed and resumed they are one W&B run, and W&B never decides about the weights."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest
import torch
import yaml

from distillkit.training.loggers import read_metrics
from tests.faults.fixtures import Reference, Start
from tests.faults.harness import MAX_STEPS, Inputs, Recipe, Run
from tests.faults.wandb_records import sessions

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.ci]


def logged(run: Run) -> dict[str, dict[int, float]]:
    """metrics.csv as metric -> optimizer step -> value."""
    found: dict[str, dict[int, float]] = {}
    for row in read_metrics(run.path / "metrics.csv"):
        for name in row.keys() - {"step"}:
            found.setdefault(name, {})[int(row["step"])] = float(row[name])
    return found


def test_killed_run_is_one_wandb_run_with_the_metrics_of_the_table_when_resumed(
    inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    run, recipe = Run(tmp_path / "run"), Recipe(more=("logger=wandb",))
    process = start(*recipe.words(inputs, every=3), f"run.dir={run.path}")
    process.wait_until(lambda: process.step >= 5)
    process.kill()
    resumed = start("resume", str(run.path)).succeed()
    parts, table = sessions(run.path), logged(run)
    assert "wandb:" not in resumed.stderr
    assert "warning:" not in resumed.stderr
    assert [part.exit_code for part in parts] == [None, 0]
    assert parts[1].id == yaml.safe_load((run.path / "config.yaml").read_text())["run"]["id"]
    assert all(part.folder.name.endswith(f"-{parts[1].id}") for part in parts)
    assert set(table["train/loss"]) == set(range(1, MAX_STEPS + 1))
    assert {name: parts[1].history(name) for name in table} == table
    assert len([row for row in parts[1].rows if "train/loss" in row]) == MAX_STEPS
    assert parts[1].config["optimizer"]["lr"] == 5e-4
    assert parts[1].summary["evaluation"]["student"]["top1"] > 0


def test_run_goes_on_when_it_was_stopped_before_its_first_row(inputs: Inputs, start: Start, tmp_path: Path) -> None:
    run, recipe = Run(tmp_path / "run"), Recipe(more=("logger=wandb",))
    process = start(*recipe.words(inputs, every=50), "trainer.log_every_n_steps=100", f"run.dir={run.path}")
    process.wait_until(lambda: process.step >= 3)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert run.checkpoints() and not (run.path / "metrics.csv").exists()
    resumed = start("resume", str(run.path)).succeed()
    assert "warning:" not in resumed.stderr
    assert [part.exit_code for part in sessions(run.path)] == [143, 0]


def test_run_ends_with_the_same_weights_and_one_warning_when_wandb_is_out_of_reach(
    inputs: Inputs, start: Start, tmp_path: Path, reference: Reference
) -> None:
    recipe, run = Recipe(), Run(tmp_path / "run")
    finished = reference(recipe)
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        environment = {
            "WANDB_MODE": "online", "WANDB_API_KEY": "k" * 40, "HOME": str(tmp_path),
            "WANDB_BASE_URL": f"http://127.0.0.1:{closed.getsockname()[1]}",
        }  # fmt: skip
        words = recipe.words(inputs, every=5)
        words[words.index("logger=none")] = "logger=wandb_online"
        process = start(*words, f"run.dir={run.path}", environment=environment).succeed()
    ours, theirs = run.weights(), finished().weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (warning,) = (line for line in process.stderr.splitlines() if line.startswith("warning: "))
    assert warning.startswith("warning: W&B: ")
    assert "wandb:" not in process.stderr
    (session,) = sessions(run.path)
    assert session.exit_code == 0
