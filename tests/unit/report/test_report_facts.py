"""The facts of several runs: names, figures as measured, and notes on what does not compare or is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.report import facts
from distillkit.report.facts import gather, short_names
from distillkit.report.page import as_markdown
from distillkit.rundir import RunFolder
from tests.faults.harness import make_bert
from tests.unit.report.conftest import STUDENT_FIGURES, MakeRun, costs

pytestmark = pytest.mark.usefixtures("cheap")


def gathered(*paths: Path) -> dict[str, Any]:
    return gather([RunFolder(path, new=False, held=False) for path in paths])


def test_figures_are_those_of_the_evaluation_when_gathered(report: Path) -> None:
    models = json.loads((report / "report.json").read_text())["models"]
    assert list(models) == ["teacher", "distilbert", "albert", "control"]
    for run in ("distilbert", "albert", "control"):
        measured = json.loads((report / run / "evaluation.json").read_text())
        for row, name in ((measured["student"], run), (measured.get("teacher", {}), "teacher")):
            assert {key: models[name][key] for key in row if key in models[name]} == {
                key: value for key, value in row.items() if key in models[name]
            }
    assert [model["of_teacher"] for model in models.values()] == [None, 0.75, 0.75, 0.5]
    assert models["control"]["agreement"] is models["control"]["kl"] is None
    assert [model["disk_mb"] for model in models.values()] == [1, 2, 3, 4]
    assert [model["latency_ms"] for model in models.values()] == [1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/x", "/a/y"], ["x", "y"]),
        (["/a/x", "/b/x", "/b/y"], ["a/x", "b/x", "y"]),
        (["/a/b/x", "/c/b/x", "/c/d/x"], ["a/b/x", "c/b/x", "d/x"]),
    ],
)
def test_names_are_as_long_as_it_takes_when_paths_end_alike(paths: list[str], names: list[str]) -> None:
    assert short_names([Path(path) for path in paths]) == names


def test_run_is_told_from_the_teacher_when_it_is_called_so(make_run: MakeRun, tmp_path: Path) -> None:
    assert list(gathered(make_run(tmp_path / "teacher"))["runs"]) == ["teacher (run)"]


def test_runs_stay_apart_when_their_folders_are_named_alike(make_run: MakeRun, tmp_path: Path) -> None:
    found = gathered(make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run"))
    assert list(found["models"]) == ["teacher", "a/run", "b/run"] and list(found["runs"]) == ["a/run", "b/run"]


def test_report_says_what_is_missing_when_a_run_has_not_finished(make_run: MakeRun, tmp_path: Path) -> None:
    found = gathered(make_run(tmp_path / "run", events=[("start", 1.0, 0), ("checkpoint", 2.0, 6)], figures=None))
    assert found["models"]["run"]["top1"] is None and found["models"]["run"]["disk_mb"] is None
    assert found["models"]["run"]["unique_parameters"] > 0 and found["models"]["teacher"]["disk_mb"] == 1
    assert any(note.startswith("run has not finished: stopped, step 12 of 12") for note in found["notes"])
    assert any("no student/ folder" in note for note in found["notes"])


def test_report_names_the_step_of_its_figures_when_a_finished_run_goes_on(make_run: MakeRun, tmp_path: Path) -> None:
    events = [("start", 1.0, 0), ("finish", 5.0, 8), ("resume", 9.0, 8), ("checkpoint", 9.5, 12)]
    found = gathered(make_run(tmp_path / "run", events=events, steps=30))
    assert any("step 12 of 30" in note and "those of step 8" in note for note in found["notes"])
    assert found["models"]["run"]["top1"] == STUDENT_FIGURES["top1"]


def test_others_are_measured_and_a_note_says_so_when_the_teacher_is_gone(make_run: MakeRun, tmp_path: Path) -> None:
    found = gathered(make_run(tmp_path / "run", teacher=tmp_path / "gone"))
    assert any(note.startswith("teacher: size, latency") and "gone" in note for note in found["notes"])
    assert found["models"]["teacher"]["disk_mb"] is None and found["models"]["run"]["disk_mb"] == 1
    assert found["models"]["teacher"]["top1"] == 0.5
    assert list(found["examples"][0]["predictions"]) == ["run"]


def test_teacher_is_measured_without_examples_when_it_has_no_tokenizer_of_its_own(
    make_run: MakeRun, tmp_path: Path
) -> None:
    make_bert().save_pretrained(tmp_path / "bare")
    found = gathered(make_run(tmp_path / "run", teacher=tmp_path / "bare"))
    assert [found["models"][name]["disk_mb"] for name in ("teacher", "run")] == [1, 2]
    assert any(note.startswith("teacher: examples are missing") for note in found["notes"])
    assert list(found["examples"][0]["predictions"]) == ["run"]


def test_page_is_made_with_a_note_when_memory_could_not_be_measured(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"peak_memory_mb": None, "model_memory_mb": None, "memory_failure": "killed by signal 9"}
    monkeypatch.setattr(
        facts, "measure_efficiency", lambda models: {name: cost | failed for name, cost in costs(models).items()}
    )
    found = gathered(make_run(tmp_path / "run"))
    assert found["models"]["run"]["latency_ms"] == 2.5 and found["models"]["run"]["peak_memory_mb"] is None
    assert "run: peak memory is missing: its process failed: killed by signal 9." in found["notes"]
    assert "| peak memory" not in as_markdown(found, [])


@pytest.mark.parametrize(
    ("change", "compares"),
    [
        ({}, True),
        ({"corpus": "other"}, False),
        ({"masking": {"probability": 0.3}}, False),
        ({"masking": {"probability": 0.15, "mask_fraction": 0.8, "smoothing": 0.7, "max_ngram": 3}}, True),
        ({"run": {"evaluation_batches": 4}}, False),
        ({"data": {"batch_size": 8, "batch_tokens": None, "num_workers": 0}}, True),
    ],
    ids=["same", "text", "masks", "other masks in training", "fewer batches", "other batches of all text"],
)
def test_note_says_that_figures_do_not_compare_when_the_held_out_text_differs(
    change: dict[str, Any], compares: bool, make_run: MakeRun, tmp_path: Path
) -> None:
    found = gathered(make_run(tmp_path / "a"), make_run(tmp_path / "b", **change))
    assert any("do not compare" in note for note in found["notes"]) is not compares
    teachers = ["teacher"] if compares else ["teacher my_bert, text 1", "teacher my_bert, text 2"]
    assert list(found["models"]) == [*teachers, "a", "b"]


def test_control_is_not_related_to_a_teacher_when_that_read_another_text(make_run: MakeRun, tmp_path: Path) -> None:
    found = gathered(make_run(tmp_path / "a"), make_run(tmp_path / "b", teacher=None, corpus="other"))
    assert found["models"]["a"]["of_teacher"] == 0.75 and found["models"]["b"]["of_teacher"] is None


def test_facts_are_json_when_a_figure_overflows(make_run: MakeRun, tmp_path: Path) -> None:
    found = gathered(make_run(tmp_path / "run", figures=STUDENT_FIGURES | {"perplexity": float("inf")}))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["models"]["run"]["perplexity"] is None


def test_note_says_that_sharing_saves_no_operations_when_layers_are_shared(report: Path) -> None:
    notes = json.loads((report / "report.json").read_text())["notes"]
    (note,) = (note for note in notes if "not operations" in note)
    assert "albert" in note and "distilbert" not in note


def test_note_says_what_sharing_a_part_takes_on_disk_when_it_is_stored_unshared(
    make_run: MakeRun, tmp_path: Path
) -> None:
    found = gathered(make_run(tmp_path / "run", student="albert_ffn"), make_run(tmp_path / "albert", student="albert"))
    (note,) = (note for note in found["notes"] if "unshared" in note)
    model = found["models"]["run"]
    unique = model["disk_mb"] * model["unique_parameters"] / model["stored_parameters"]
    assert note.startswith("run is stored unshared: its layers share their ffn") and "2.0 MB" in note
    assert f"would take {unique:,.1f} MB" in note and unique < 1.8
    assert any("not operations: run, albert compute" in other for other in found["notes"])


def test_note_says_that_the_machine_was_busy_when_latency_varies(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = facts.measure_efficiency

    def busy(models: Any) -> Any:
        return {
            name: cost | {"latency_ms": cost["latency_ms"] | {"spread": 0.5}} for name, cost in calm(models).items()
        }

    run = make_run(tmp_path / "run")
    assert not any("busy" in note for note in gathered(run)["notes"])
    monkeypatch.setattr(facts, "measure_efficiency", busy)
    assert any("busy" in note for note in gathered(run)["notes"])


def test_models_are_measured_together_when_there_are_several_runs(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(facts, "measure_efficiency", lambda models: calls.append(list(models)) or costs(models))
    gathered(make_run(tmp_path / "a"), make_run(tmp_path / "b"))
    assert calls == [["teacher", "a", "b"]]


def test_report_says_why_when_a_run_failed(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", events=[("start", 1.0, 0)], figures=None)
    (run / "error.log").write_text("Traceback\ndistillkit.errors.NumericalError: the loss is nan\n")
    assert any("failed, step 12" in note and "the loss is nan" in note for note in gathered(run)["notes"])
