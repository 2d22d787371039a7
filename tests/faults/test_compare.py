"""A comparison as a process: one fine-tuning that is killed, the whole that is killed, and what a repetition does."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.fixtures import Call, Start
from tests.faults.harness import CliProcess, Inputs, make_bert, make_tokenizer
from tests.unit.comparison.test_units import write_rows

Words = Callable[..., list[str]]


@pytest.fixture
def words(inputs: Inputs, tmp_path: Path) -> Words:
    """words(*more): two models on one task with two seeds, a second or two each, in folder/compare."""
    small = tmp_path / "small"
    make_bert(num_hidden_layers=2).save_pretrained(small)
    make_tokenizer().save_pretrained(small)
    train, test = write_rows(tmp_path / "train.tsv", 160), write_rows(tmp_path / "test.tsv", 20)

    def build(*more: str) -> list[str]:
        return [
            "compare", f"models=[{inputs.teacher},{small}]", "tasks=[classification]", "seeds=[0,1]", "batch_size=8",
            "trainer.max_epochs=20", "task.classification.text=text", "task.classification.label=label",
            f"task.classification.files.train={train}", f"task.classification.files.test={test}",
            f"run.dir={tmp_path / 'compare'}", *more,
        ]  # fmt: skip

    return build


def results(place: Path) -> dict[str, str]:
    """Folder of a unit -> its figures, of the units that are done."""
    return {path.parent.name: path.read_text() for path in (place / "units").glob("*/result.json")}


def working(process: CliProcess) -> list[int]:
    """The processes of units: grandchildren, which a server forks."""
    found = []
    for child in process.children():
        path = Path(f"/proc/{child}/task/{child}/children")
        found += [int(pid) for pid in path.read_text().split()] if path.exists() else []
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.fault
def test_comparison_does_only_what_is_missing_when_it_was_killed(
    start: Start, words: Words, tmp_path: Path, say: Callable[[str], None]
) -> None:
    place = tmp_path / "compare"
    first = start(*words())
    first.wait_until(lambda: len(results(place)) >= 1 and bool(working(first)))
    orphans = working(first)
    first.kill()
    done = results(place)
    say(f"killed {first.pid} with {len(done)} of 4 fine-tunings done, {orphans} under way")
    assert 1 <= len(done) < 4
    second = start(*words())
    second.succeed()
    assert not any(map(alive, orphans)), "a killed comparison left a fine-tuning running"
    assert f"4 fine-tunings, {len(done)} of them done already" in second.stderr
    assert second.stderr.count("classification, ") == 4 - len(done)
    after = results(place)
    assert len(after) == 4 and done.items() <= after.items(), "a finished fine-tuning was done again"
    facts = json.loads((place / "results.json").read_text())
    assert facts["failed"] == [] and (place / "report.html").is_file()
    third = start(*words("seeds=[0]"))
    third.succeed()
    assert "2 fine-tunings, 2 of them done already" in third.stderr
    assert json.loads((place / "results.json").read_text())["recipe"]["seeds"] == [0]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.fault
def test_other_fine_tunings_finish_when_one_is_killed(
    start: Start, words: Words, tmp_path: Path, say: Callable[[str], None]
) -> None:
    place = tmp_path / "compare"
    process = start(*words("seeds=[0]"))
    process.wait_until(lambda: bool(working(process)) and bool(list((place / "units").glob("*/log.txt"))))
    (victim,) = working(process)
    os.kill(victim, signal.SIGKILL)
    say(f"killed the fine-tuning {victim} of {process.pid}")
    assert process.wait() == 5, process.stderr
    assert "[1/2] classification, teacher, seed 0: failed: killed by signal 9 (SIGKILL)" in process.stderr
    assert "[2/2] classification, small, seed 0: accuracy" in process.stderr
    (failed,) = json.loads((place / "results.json").read_text())["failed"]
    assert failed == {"model": "teacher", "task": "classification", "seed": 0, "error": "killed by signal 9 (SIGKILL)"}
    again = start(*words("seeds=[0]"))
    again.succeed()
    assert "2 fine-tunings, 1 of them done already" in again.stderr
    assert json.loads((place / "results.json").read_text())["failed"] == []


@pytest.mark.slow
@pytest.mark.fault
def test_comparison_keeps_what_is_done_when_asked_to_stop(start: Start, words: Words, tmp_path: Path) -> None:
    place = tmp_path / "compare"
    process = start(*words())
    process.wait_until(lambda: len(results(place)) >= 1 and bool(working(process)))
    second = start(*words())
    assert second.wait() == 2 and f"in use by process {process.pid}" in second.stderr
    left = working(process)
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert process.stderr.splitlines()[-1].startswith("stopped; the fine-tunings that are done are kept")
    assert not any(map(alive, left)) and results(place)


@pytest.mark.parametrize(("given", "said"), [
    (["tasks=[sst]"], r"tasks=sst: no such task; allowed: glue, .*; fix: did you mean sst2\?"),
    (["tasks=[]"], r"a key of a task that is not compared; fix: add classification to tasks"),
    (["tasks=[sst2"], r"tasks=\[sst2: not a list; fix: set tasks=\[sst2,ner\]"),
    (["models=[]"], r"models=\[\]: a list without repetitions is needed"),
    (["models=[nowhere/at/all]"], r"models=nowhere/at/all: no such folder"),
    (["seeds=[-1]"], r"seeds=\[-1\]: must be whole numbers"),
    (["task.classification.epochs=0"], r"task\.classification\.epochs=0: must be a whole number"),
    (["task.classification.text=body"], r"task\.classification\.text=body: .* no such column; allowed: text, label"),
    (["task.classification.files.train=none.tsv"], r"task\.classification\.files\.train=\S+none\.tsv: no such file"),
    (["reference=me"], r"reference=me: not among the models; allowed: teacher, small"),
    (["trainer.devices=2"], r"trainer\.devices=2: a fine-tuning takes one device"),
    (["task.classification.trainrows=2"], r"no such key; fix: did you mean task\.classification\.train_rows\?"),
])  # fmt: skip
def test_comparison_names_the_mistake_when_its_words_do_not_fit(
    given: list[str], said: str, call: Call, words: Words, tmp_path: Path
) -> None:
    result = call(*words(*given))
    assert result.code == 2 and re.search(said, result.err), result.err
    assert len(result.err.strip().splitlines()) == 1 and not (tmp_path / "compare").exists()
