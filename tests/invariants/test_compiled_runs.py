"""A run whose layers are compiled is the run it would be without, within rounding, and resumes like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.faults.fixtures import Start
from tests.faults.harness import Inputs, Recipe, Run, assert_identical
from tests.invariants.test_resume_rules import interrupt

STEPS = 4
pytestmark = pytest.mark.slow


def train(start: Start, inputs: Inputs, run: Run, packing: str, *more: str) -> Run:
    """A finished run of STEPS steps with a checkpoint every second one."""
    words = Recipe(packing=packing).words(inputs, every=2)
    start(*words, f"run.dir={run.path}", f"trainer.max_steps={STEPS}", *more).succeed()
    return run


def contents(run: Run) -> set[Path]:
    return {path.relative_to(run.path) for path in run.path.rglob("*")}


@pytest.mark.ci
def test_compiled_run_agrees_with_a_plain_one_when_nothing_is_random(
    inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    plain = train(start, inputs, Run(tmp_path / "plain"), "full", "student.dropout=0")
    compiled = train(start, inputs, Run(tmp_path / "compiled"), "full", "student.dropout=0", "run.compile=true")
    assert contents(compiled) == contents(plain)
    for ours, theirs in zip(compiled.figures(), plain.figures(), strict=True):
        assert {name: float(value) for name, value in ours.items()} == pytest.approx(
            {name: float(value) for name, value in theirs.items()}, rel=1e-5, abs=1e-6
        )
    ours, theirs = compiled.state(STEPS)["state_dict"], plain.state(STEPS)["state_dict"]
    assert ours.keys() == theirs.keys()
    assert compiled.weights().keys() == plain.weights().keys()
    assert not all(torch.equal(ours[name], theirs[name]) for name in theirs), "nothing was compiled"


@pytest.mark.ci
@pytest.mark.parametrize("packing", ["full", "none"])
def test_compiled_run_resumes_identical_when_interrupted(
    packing: str, inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    whole = train(start, inputs, Run(tmp_path / "whole"), packing, "run.compile=true")
    run = Run(Path(shutil.copytree(whole.path, tmp_path / "run")))
    interrupt(run, last=2)
    start("resume", str(run.path)).succeed()
    assert run.starts() == [0, 2]
    assert_identical(run, whole)
