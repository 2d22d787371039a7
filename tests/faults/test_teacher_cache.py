"""Runs with a teacher cache end with the same weights whatever happens to it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from distillkit.rowstore import RowStore
from tests.faults.fixtures import Call, Reference, Say, Start
from tests.faults.harness import MAX_STEPS, Inputs, Recipe, Run, assert_identical
from tests.invariants.test_resume_rules import interrupt

pytestmark = pytest.mark.fault

CACHED = ("data.mask_epochs=1", "trainer.max_steps=8")


def words(inputs: Inputs, run: Run, cache: Path, *more: str) -> list[str]:
    """A short run of one mask pattern: an epoch has five or six steps, the rest reads."""
    return [*Recipe(more=CACHED).words(inputs, every=7), f"run.dir={run.path}", f"teacher.cache={cache}", *more]


def rows_of(run: Run) -> tuple[int, int, int]:
    """Read, computed and damaged in its last session."""
    event = run.events("teacher_cache")[-1]
    return event["rows_read"], event["rows_computed"], event["rows_damaged"]


def damage_rows(cache: Path) -> None:
    """Changes a byte in every 200, fewer than a row has."""
    for file in cache.glob("*/*/*.rows"):
        content = bytearray(file.read_bytes())
        content[::200] = bytes(255 - byte for byte in content[::200])
        file.write_bytes(content)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_second_run_computes_nothing_and_ends_the_same_when_the_first_filled_the_cache(
    precision: str, inputs: Inputs, call: Call, tmp_path: Path
) -> None:
    first, second = Run(tmp_path / "first"), Run(tmp_path / "second")
    for run in (first, second):
        result = call(*words(inputs, run, tmp_path / "states", f"trainer.precision={precision}"))
        assert result.code == 0, result.err
    read, computed, damaged = rows_of(first)
    assert 0 < read < computed and damaged == 0
    assert rows_of(second) == (read + computed, 0, 0)
    assert_identical(second, first)
    keys = json.loads((first.path / "run.json").read_text())["teacher_cache"]
    assert sorted(keys.values()) == sorted(path.name for path in (tmp_path / "states").iterdir())


def test_resume_ends_identical_and_says_so_when_rows_are_damaged_or_the_folder_is_another(
    inputs: Inputs, call: Call, tmp_path: Path
) -> None:
    whole, states = Run(tmp_path / "whole"), tmp_path / "states"
    assert call(*words(inputs, whole, states)).code == 0
    for number, change in enumerate(([], [f"teacher.cache={tmp_path / 'other'}"])):
        run = Run(tmp_path / f"run{number}")
        shutil.copytree(whole.path, run.path)
        interrupt(run, last=7)
        if not change:
            damage_rows(states)
        result = call("resume", str(run.path), *change)
        assert result.code == 0, result.err
        assert_identical(run, whole)
        read, computed, damaged = rows_of(run)
        assert read == 0 < computed and damaged == (0 if change else computed)
        assert (f"warning: {damaged} damaged rows of the teacher cache" in result.err) == bool(damaged)
    refused = call("resume", str(run.path), "teacher.cache=null", "trainer.max_steps=9")
    assert refused.code == 2 and f"teacher.cache: {tmp_path / 'other'} -> None" in refused.err


def test_run_is_refused_before_training_when_the_states_do_not_fit_on_the_disk(
    inputs: Inputs, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RowStore, "free", lambda store: 100_000)
    run = Run(tmp_path / "run")
    result = call(*words(inputs, run, tmp_path / "states"))
    assert result.code == 4 and not (run.path / "config.yaml").exists()
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: teacher.cache={tmp_path / 'states'}: needs 0 MB more, 0 MB are free; fix: ")
    result = call("info", *words(inputs, run, tmp_path / "states")[1:], "--json", "--no-probe")
    found = json.loads(result.out)["teacher_cache"]
    assert found["bytes_per_token"] == 64 and found["missing_mb"] > found["free_mb"] == 0.1
    assert found["kept_mb"] == found["all_mb"] and 0.2 < found["read_share"] < 0.5


def test_run_goes_on_with_one_warning_when_the_disk_of_the_cache_is_full(
    inputs: Inputs, call: Call, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["mount", "-o", "remount,size=96k", small_disk], check=True)
    monkeypatch.setattr(RowStore, "free", lambda store: 10**9)
    run = Run(tmp_path / "run")
    result = call(*words(inputs, run, small_disk / "states"))
    assert result.code == 0, result.err
    assert result.err.count("warning: the teacher cache") == 1
    read, computed, damaged = rows_of(run)
    assert 0 < read < computed and damaged == 0


@pytest.mark.parametrize(
    ("step", "then"),
    [
        pytest.param(2, "keep", marks=[pytest.mark.slow, pytest.mark.ci]),
        pytest.param(2, "damage", marks=pytest.mark.slow),
        pytest.param(8, "keep", marks=pytest.mark.slow),
        pytest.param(8, "delete", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("packing", ["none"])
def test_resume_ends_identical_when_killed_while_the_cache_was_filled_or_read(
    step: int, then: str, packing: str, inputs: Inputs, start: Start, say: Say, tmp_path: Path, reference: Reference
) -> None:
    recipe = Recipe(accumulate=3, packing=packing, more=("data.mask_epochs=1",))
    other = Recipe(
        accumulate=3, packing=packing, more=(*recipe.more, f"teacher.cache={inputs.cache.parent / 'states'}")
    )
    finished, run, states = reference(other), Run(tmp_path / "run"), tmp_path / "states"
    process = start(*recipe.words(inputs, every=2), f"run.dir={run.path}", f"teacher.cache={states}")
    process.wait_until(lambda: process.step >= step)
    process.kill()
    say(f"killed at step {process.step} of {MAX_STEPS}, {sum(f.stat().st_size for f in states.glob('*/0/*')):,} bytes")
    if then == "delete":
        shutil.rmtree(states)
    elif then == "damage":
        damage_rows(states)
    start("resume", str(run.path)).succeed()
    assert_identical(run, finished())
    read, computed, _ = rows_of(run)
    assert read > 0 and (computed > 0 or step > 6)
