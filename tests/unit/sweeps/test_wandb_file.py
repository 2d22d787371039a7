"""The W&B sweep file, read by what W&B itself ships for it; its schema is checked by its server alone."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config
from wandb.sdk.sweeps.scheduler.optuna import search_space_from_sweep_config

from distillkit import config
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.wandb_file import wandb_sweep

VARY = {
    "loss.alpha": "interval(0,10)",
    "optimizer.lr": "tag(log,interval(1e-5,1e-3))",
    "student.layers": "int(interval(1,8))",
    "data.batch_size": "tag(log,int(interval(1,64)))",
    "loss.beta": "0,1,5",
    "trainer.precision": "32-true,bf16-mixed",
    "teacher.cache": "null,cache",
}


def _ledger(planned: list[Arm] | None = None, **sweep: Any) -> Ledger:
    node = {"arms": {}, "vary": {}, "seeds": None, "method": "grid", "trials": None, "metric": "valid/mlm"} | sweep
    return Ledger("mine", ["experiment=demo_distilbert"], None, node, {}, None, [], planned or [Arm(0, "a", 4, [])])


def _started(told: dict[str, Any], folder: Path, values: dict[str, Any]) -> list[str]:
    """Words that a stand-in for distillkit gets from the command as W&B's agent expands it."""
    told = load_sweep_config(str(_written(told, folder))) or {}
    macros = {"${env}": ["/usr/bin/env"]} | {
        f"${{{name}}}": words
        for name, words in create_sweep_command_args(
            {"args": {name: {"value": value} for name, value in values.items()}}
        ).items()
    }
    command = [word for chunk in create_sweep_command(told["command"]) for word in macros.get(chunk, [chunk])]
    (folder / "distillkit").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "distillkit").chmod(stat.S_IRWXU)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def _written(told: dict[str, Any], folder: Path) -> Path:
    (folder / "sweep.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return folder / "sweep.yaml"


def test_wandb_draws_from_the_same_space_when_it_reads_the_file(tmp_path: Path) -> None:
    told = load_sweep_config(str(_written(wandb_sweep(_ledger(vary=VARY, method="tpe", trials=20)), tmp_path)))
    assert told and (told["method"], told["run_cap"], told["program"]) == ("bayes", 20, "distillkit")
    assert told["metric"] == {"name": "valid/mlm", "goal": "minimize"}
    assert search_space_from_sweep_config(told["parameters"]) == {
        "loss.alpha": FloatDistribution(0, 10),
        "optimizer.lr": FloatDistribution(1e-5, 1e-3, log=True),
        "student.layers": IntDistribution(1, 8),
        "data.batch_size": IntDistribution(1, 64, log=True),
        "loss.beta": CategoricalDistribution([0, 1, 5]),
        "trainer.precision": CategoricalDistribution(["32-true", "bf16-mixed"]),
        "teacher.cache": CategoricalDistribution(["null", "cache"]),
        "seed": CategoricalDistribution([4]),
    }


def test_agent_starts_train_with_words_that_compose_when_keys_are_varied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = wandb_sweep(_ledger(vary={"loss.alpha": "0,1,5", "teacher.cache": "null,cache"}, seeds=[1, 2]))
    assert (told["method"], told["parameters"]["seed"]) == ("grid", {"values": [1, 2]}) and "run_cap" not in told
    words = _started(told, tmp_path, {"loss.alpha": 5, "teacher.cache": "null", "seed": 2})
    assert words[0] == "train"
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    cfg, _ = config.load("train", words[1:])
    assert (cfg.loss.alpha, cfg.teacher.cache, cfg.seed, cfg.run.id) == (5, None, 2, "abc123")
    assert cfg.logger.wandb.offline is False and cfg.logger.wandb.id == "abc123"


def test_agent_starts_each_listed_arm_with_its_words_when_arms_have_names(tmp_path: Path) -> None:
    listed = {"full": [], "odd": ["loss.alpha=0", "run.license='a b'", 'data.path="$HOME"']}
    arms = [Arm(n, name, seed, words) for seed in (0, 1) for n, (name, words) in enumerate(listed.items())]
    told = wandb_sweep(_ledger(arms, arms=listed, seeds=[0, 1]))
    values = told["parameters"]["arm"]["values"]
    assert told["method"] == "grid" and len(values) == 4 == len(set(values))
    words = _started(told, tmp_path, {"arm": values[3]})
    assert words[0] == "train" and words[1] == "experiment=demo_distilbert"
    assert words[-4:] == [*listed["odd"], "seed=1"]
    assert _started(told, tmp_path, {"arm": values[0]})[-1] == "seed=0"
