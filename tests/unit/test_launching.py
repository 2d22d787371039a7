"""Which process of a run this is, as its launcher tells, and launches that cannot work."""

from __future__ import annotations

import os

import pytest

from distillkit import launching
from distillkit.errors import ConfigError
from distillkit.sweeps.multirun import run_arms

VARIABLES = (
    "TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
)  # fmt: skip
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The environment that a test is parametrized with."""
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("launched", "first", "processes"),
    [
        ({}, True, 1),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True, 4),
        (TORCHRUN | {"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False, 4),
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "1"}, True, 4),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, True, 1),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, False, 1),
        ({"LOCAL_RANK": "1", "RANK": "0"}, False, 1),  # RANK is left over in the shell
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False, 1),
        ({"LOCAL_RANK": "0", "GROUP_RANK": "1"}, False, 1),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, True, 2),
        ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, False, 2),
    ],
    indirect=["launched"],
)
def test_process_knows_its_place_when_started(launched: None, first: bool, processes: int) -> None:
    assert launching.is_first_rank() is first
    assert launching.started_processes() == processes


@pytest.mark.parametrize(
    ("launched", "ranks", "nodes"),
    [({}, 4, 1), (TORCHRUN, 4, 2), (TORCHRUN, 4, 1), ({"NODE_RANK": "0"}, 2, 2), ({"SLURM_PROCID": "0"}, 2, 2)],
    indirect=["launched"],
)
def test_launch_is_accepted_when_somebody_starts_every_process(launched: None, ranks: int, nodes: int) -> None:
    before = dict(os.environ)
    launching.check_processes(ranks, nodes)  # raises when it is refused
    assert dict(os.environ) == before, "the ranks that follow read it too"


@pytest.mark.parametrize(
    ("launched", "ranks", "nodes", "problem"),
    [
        ({}, 2, 2, "nobody has started the other nodes"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, 2, 2, "nobody has started the other nodes"),
        (TORCHRUN, 1, 1, "1 processes with trainer.devices, but torchrun has started 4"),
        (TORCHRUN, 8, 2, "8 processes with trainer.devices, but torchrun has started 4"),
    ],
    indirect=["launched"],
)
def test_launch_is_refused_in_one_line_when_processes_are_missing(
    launched: None, ranks: int, nodes: int, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        launching.check_processes(ranks, nodes)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"trainer.num_nodes={nodes}: {problem}") and "; fix: " in line


@pytest.mark.parametrize("launched", [TORCHRUN], indirect=True)
def test_multirun_is_refused_when_a_launcher_has_started_several_processes(launched: None) -> None:
    with pytest.raises(ConfigError, match=r"^-m=4 processes: a multirun starts its own processes; "):
        run_arms(["seed=1,2"], None)
