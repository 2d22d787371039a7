"""What `resume` takes, refuses and passes over; every case starts from a copy of one finished run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distillkit.training.checkpointing import MANIFEST, STATE
from tests.faults.fixtures import Call, Reference
from tests.faults.harness import MAX_STEPS, Inputs, Recipe, Run, assert_identical


@pytest.fixture
def finished(reference: Reference, tmp_path: Path) -> Run:
    """A copy of a finished run with checkpoints at steps 10 and 14."""
    run = Run(tmp_path / "run")
    shutil.copytree(reference(Recipe())().path, run.path)
    assert run.checkpoints() == [10, MAX_STEPS]
    return run


@pytest.fixture
def unfinished(finished: Run) -> Run:
    """The same, as if killed after its last checkpoint."""
    interrupt(finished, last=MAX_STEPS)
    return finished


def interrupt(run: Run, *, last: int) -> None:
    """Undoes the end of a run: no finish event, no student, no checkpoint beyond step `last`."""
    events = run.path / "events.jsonl"
    events.write_text("".join(line for line in events.read_text().splitlines(True) if "finish" not in line))
    shutil.rmtree(run.path / "student")
    for step in run.checkpoints():
        if step > last:
            shutil.rmtree(run.checkpoint(step))


def test_resume_says_so_and_exits_0_when_finished(finished: Run, call: Call) -> None:
    before = sorted(finished.path.rglob("*"))
    result = call("resume", str(finished.path))
    assert result.code == 0
    assert "finished already" in result.out
    assert sorted(finished.path.rglob("*")) == before


def test_resume_continues_when_max_steps_is_larger(finished: Run, call: Call) -> None:
    words = (finished.path / "overrides.yaml").read_text()
    result = call("resume", str(finished.path), f"trainer.max_steps={MAX_STEPS + 2}")
    assert result.code == 0, result.err
    assert finished.starts() == [0, MAX_STEPS]
    assert finished.events("finish")[-1]["step"] == finished.checkpoints()[-1] == MAX_STEPS + 2
    assert [row["step"] for row in finished.figures() if "train/loss" in row] == [
        str(step) for step in range(1, MAX_STEPS + 3)
    ]
    assert (finished.path / "overrides.yaml").read_text() == words
    card = (finished.path / "student" / "README.md").read_text()
    assert f"\ndistillkit resume RUN_DIR trainer.max_steps={MAX_STEPS + 2}\n" in card


@pytest.mark.parametrize(
    "change",
    ["data.batch_size=6", "seed=1", "optimizer.lr=0.1", "trainer.accumulate_grad_batches=2", "run.compile=True"],
)
def test_resume_is_refused_naming_the_difference_when_the_configuration_changed(
    change: str, unfinished: Run, call: Call
) -> None:
    key, _, value = change.partition("=")
    before = (unfinished.path / "config.yaml").read_text()
    result = call("resume", str(unfinished.path), change)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("error: ") and f"{key}: " in line and f" -> {value}" in line
    assert (unfinished.path / "config.yaml").read_text() == before


def test_resume_is_refused_when_the_corpus_changed(inputs: Inputs, call: Call, tmp_path: Path) -> None:
    own = replace(inputs, corpus=tmp_path / "corpus.txt")
    shutil.copy(inputs.corpus, own.corpus)
    words = [*Recipe().words(own, every=1), f"run.dir={tmp_path / 'run'}"]
    assert call(*words, "trainer.max_steps=2").code == 0
    own.corpus.write_text(own.corpus.read_text().replace("w1 ", "w2 ", 1))
    result = call("resume", str(tmp_path / "run"), "trainer.max_steps=3")
    assert result.code == 2
    assert result.err.startswith(f"error: data.path={own.corpus}: ")


def test_finish_and_card_are_of_the_last_step_when_a_run_was_killed_after_its_last_checkpoint(
    unfinished: Run, call: Call
) -> None:
    result = call("resume", str(unfinished.path))
    assert result.code == 0, result.err
    assert [event["step"] for event in unfinished.events("finish")] == [MAX_STEPS]
    assert f"{MAX_STEPS} of " in (unfinished.path / "student" / "README.md").read_text()


def test_resume_is_refused_when_it_would_go_on_with_other_processes(unfinished: Run, call: Call) -> None:
    facts = json.loads((unfinished.path / "run.json").read_text())
    assert facts["ranks"] == 1
    (unfinished.path / "run.json").write_text(json.dumps(facts | {"ranks": 2}))
    result = call("resume", str(unfinished.path))
    assert result.code == 2
    assert result.err.startswith("error: trainer.devices=1: the run began with 2 processes")


def test_copies_of_checkpoints_are_left_alone_when_a_run_goes_on(unfinished: Run, call: Call) -> None:
    copy = unfinished.checkpoint(MAX_STEPS).with_name(f"{unfinished.checkpoint(MAX_STEPS).name}.bak")
    shutil.copytree(unfinished.checkpoint(MAX_STEPS), copy)
    words = [f"trainer.max_steps={MAX_STEPS + 2}", "checkpoint.keep_last=1"]
    result = call("resume", str(unfinished.path), *words)
    assert result.code == 0, result.err
    assert copy.is_dir() and unfinished.checkpoint(MAX_STEPS + 2).is_dir()


def test_folder_is_no_override_when_its_path_holds_an_equals_sign(finished: Run, call: Call, tmp_path: Path) -> None:
    moved = tmp_path / "lr=0.1" / "run"
    moved.parent.mkdir()
    finished.path.rename(moved)
    assert "finished already" in call("resume", str(moved)).out
    for words in (["evaluate", str(moved)], ["export", str(moved), f"output={tmp_path / 'exported'}"]):
        result = call(*words)
        assert result.code == 0, result.err


def test_resume_is_refused_when_max_steps_is_behind_the_run(unfinished: Run, call: Call) -> None:
    result = call("resume", str(unfinished.path), "trainer.max_steps=3")
    assert result.code == 2
    assert f"at step {MAX_STEPS}" in result.err


def test_resume_is_refused_when_the_folder_is_not_a_run(call: Call, tmp_path: Path) -> None:
    result = call("resume", str(tmp_path))
    assert result.code == 2
    assert result.err.startswith("error: RUN_DIR=")


@pytest.mark.parametrize(("words", "warned"), [([], False), (["run.threads=2"], True)])
def test_resume_warns_that_sums_round_differently_when_threads_changed(
    words: list[str], warned: bool, unfinished: Run, call: Call
) -> None:
    result = call("resume", str(unfinished.path), *words)
    assert result.code == 0, result.err
    assert ("warning: 2 threads instead of 1" in result.err and "set run.threads=1" in result.err) is warned
    assert unfinished.starts() == [0, MAX_STEPS]


def truncate(checkpoint: Path) -> None:
    """Cuts the state in half."""
    state = checkpoint / STATE
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])


def flip_a_bit(checkpoint: Path) -> None:
    """Changes one bit in the middle of the state."""
    content = bytearray((checkpoint / STATE).read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / STATE).write_bytes(content)


def lose_the_manifest(checkpoint: Path) -> None:
    """What a copy that was interrupted leaves."""
    (checkpoint / MANIFEST).unlink()


def empty_the_manifest(checkpoint: Path) -> None:
    """What a file system may leave after a power cut."""
    (checkpoint / MANIFEST).write_text(json.dumps({}))


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_the_manifest, empty_the_manifest])
def test_resume_takes_the_checkpoint_before_and_says_so_when_the_newest_is_damaged(
    damage: Callable[[Path], None], unfinished: Run, call: Call, reference: Reference
) -> None:
    damage(unfinished.checkpoint(MAX_STEPS))
    result = call("resume", str(unfinished.path))
    assert result.code == 0, result.err
    skipped = [line for line in result.err.splitlines() if line.startswith("warning: skipped")]
    assert len(skipped) == 1 and unfinished.checkpoint(MAX_STEPS).name in skipped[0]
    assert unfinished.starts() == [0, 10]
    assert_identical(unfinished, reference(Recipe())())


def test_resume_ends_identical_when_the_run_was_moved(unfinished: Run, call: Call, reference: Reference) -> None:
    shutil.rmtree(unfinished.checkpoint(MAX_STEPS))
    moved = Run(unfinished.path.rename(unfinished.path.with_name("moved")))
    result = call("resume", str(moved.path))
    assert result.code == 0, result.err
    assert_identical(moved, reference(Recipe())())


def test_resume_ends_identical_when_layers_are_recomputed_from_there_on(
    unfinished: Run, call: Call, reference: Reference
) -> None:
    shutil.rmtree(unfinished.checkpoint(MAX_STEPS))
    result = call("resume", str(unfinished.path), "run.gradient_checkpointing=true")
    assert result.code == 0, result.err
    assert_identical(unfinished, reference(Recipe())())


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
def test_resume_ends_identical_when_the_precision_is_not_float32(
    precision: str, inputs: Inputs, call: Call, tmp_path: Path
) -> None:
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    words = [*Recipe().words(inputs, every=2), f"trainer.precision={precision}", "trainer.max_steps=4"]
    result = call(*words, f"run.dir={whole.path}")
    assert result.code == 0, result.err
    shutil.copytree(whole.path, run.path)
    interrupt(run, last=2)
    assert call("resume", str(run.path)).code == 0
    assert run.starts() == [0, 2]
    assert_identical(run, whole)
