"""Every shipped experiment composes, is valid, and every key of its file takes effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from distillkit import config, validation

FILES = sorted((config.conf_dir() / "experiment").glob("*.yaml"))


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of an experiment's file, without its defaults list."""
    for key, value in node.items():
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "defaults":
            yield f"{prefix}{key}", value


def choices(node: DictConfig) -> dict[str, str]:
    """Group -> option of the `override /group: option` lines."""
    entries = [entry for entry in node.defaults if isinstance(entry, DictConfig)]
    return {str(k).removeprefix("override /"): v for entry in entries for k, v in entry.items()}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def experiment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISTILLKIT_RUN_DIR", "unused")
    return request.param


def test_experiment_files_are_found() -> None:
    assert len(FILES) >= 4


def test_experiment_has_every_key_and_choice_of_its_file_when_composed(experiment: Path) -> None:
    written = OmegaConf.load(experiment)
    assert isinstance(written, DictConfig)
    cfg, hydra = config.load("train", [f"experiment={experiment.stem}"])
    found = list(leaves(written))
    assert found or choices(written)
    for key, value in found:
        assert OmegaConf.select(cfg, key) == value, key
    assert choices(written).items() <= hydra.runtime.choices.items()


def test_experiment_names_no_key_that_its_groups_do_not_have(experiment: Path) -> None:
    written = OmegaConf.load(experiment)
    assert isinstance(written, DictConfig)
    _, hydra = config.load("train", [f"experiment={experiment.stem}"])
    groups = [f"{k}={v}" for k, v in hydra.runtime.choices.items() if not k.startswith("hydra/") and k != "experiment"]
    known = config.keys("train", groups)
    assert [key for key, _ in leaves(written) if key not in known] == []


def test_experiment_is_valid_when_composed(experiment: Path) -> None:
    settled = config.settle(*config.load("train", [f"experiment={experiment.stem}"]))
    validation.validate(settled)
    assert f"runs/{experiment.stem}/" in settled["run"]["dir"]


def test_experiment_gives_way_when_a_key_is_typed_as_well(experiment: Path) -> None:
    cfg, _ = config.load("train", [f"experiment={experiment.stem}", "optimizer.lr=0.125", "loss.positions=all"])
    assert cfg.optimizer.lr == 0.125
    assert cfg.loss.positions == "all"
