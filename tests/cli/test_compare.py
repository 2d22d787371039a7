"""distillkit compare from the command line: a run's student beside its teacher, on local files, without a hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from distillkit.building import make
from distillkit.comparison import compare
from distillkit.comparison.tasks.classification import Classification
from distillkit.comparison.units import Unit
from distillkit.errors import TeacherError
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs, make_bert, make_tokenizer
from tests.unit.comparison.span_rows import hub_rows, nested
from tests.unit.comparison.test_units import write_rows

TRAIN = ["data.max_length=48", "data.batch_size=8", "trainer.max_steps=2", "checkpoint.every_n_steps=2"]


def costs(models: dict[str, str], *, under_load: bool) -> dict[str, Any]:
    """Efficiency without measuring it, which takes a process and seconds a model."""
    assert under_load
    speed = {"median": 2.0, "p95": 3.0, "spread": 0.1, "length": 128, "batch": 1, "threads": 1, "rounds": 9}
    figures = {"disk_bytes": 10**6, "latency_ms": speed, "throughput": {"32": 7.0}, "throughput_batch": 16,
               "flops_per_token": 3e6, "peak_memory_mb": 80.0}  # fmt: skip
    return dict.fromkeys(models, figures)


@pytest.fixture
def words(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A comparison of the teacher and the run in tmp_path/run on questions and on classification."""
    monkeypatch.setattr(compare, "measure_efficiency", costs)
    (tmp_path / "squad.json").write_text(json.dumps(nested(hub_rows())))
    rows = write_rows(tmp_path / "rows.tsv", 40)
    return [
        "compare", f"models=[{inputs.teacher},{tmp_path / 'run'}]", "tasks=[span,classification]", "seeds=[0,1]",
        "batch_size=8", "trainer.max_epochs=2", "optimizer.lr=1e-3", f"task.span.files.train={tmp_path / 'squad.json'}",
        f"task.span.files.test={tmp_path / 'squad.json'}", "task.span.max_length=24", "task.span.stride=4",
        f"task.classification.files.train={rows}", "task.classification.text=text", "task.classification.label=label",
        f"run.dir={tmp_path / 'compare'}", "price_per_hour=2",
    ]  # fmt: skip


def test_comparison_writes_page_and_card_when_a_run_and_its_teacher_are_compared(
    call: Call, inputs: Inputs, words: list[str], tmp_path: Path
) -> None:
    run, place = tmp_path / "run", tmp_path / "compare"
    assert call("train", *inputs.words(), *TRAIN, f"run.dir={run}").code == 0
    result = call(*words)
    assert result.code == 0, result.err
    assert result.err.count("span, run, seed") == 2 and "8 fine-tunings" in result.err
    facts = json.loads((place / "results.json").read_text())
    assert facts["reference"] == "teacher" and facts["failed"] == []
    assert facts["models"]["run"]["role"] == "student" and facts["models"]["run"]["made"] == "distilled from teacher"
    assert facts["models"]["run"]["training"]["peak_memory_mb"] > 50
    assert facts["models"]["run"]["training"]["cost"] > 0
    assert facts["tasks"]["span"]["parts"] == {"train": 20, "test": 20}
    assert set(facts["scores"]["run"]["span"]["metrics"]["test"]) == {"f1", "exact_match"}
    assert sum(facts["tasks"]["classification"]["parts"].values()) == 40, "a part of the only file was not held out"
    page = (place / "report.md").read_text()
    assert "| run |" in page and "span" in page and (place / "report.html").stat().st_size > 10_000
    assert result.out.splitlines()[-1] == str(place / "report.html")
    card = ModelCard.load(run / "student" / "README.md")
    assert "On tasks" in card.content
    again = [word for word in words if not word.startswith(("tasks", "seeds", "task.span"))]
    assert call(*again, "tasks=classification", "seeds=5", f"run.dir={tmp_path / 'other'}").code == 0
    kept = json.loads((run / "comparison.json").read_text())
    assert set(kept["scores"]) == {"span", "classification"}, "a second comparison lost the first one's figures"
    assert kept["tasks"]["span"]["recipe"]["seeds"] == [0, 1] and kept["tasks"]["classification"]["recipe"][
        "seeds"
    ] == [5]
    assert {"span", "classification"} <= {entry.dataset_name for entry in card.data.eval_results}


def test_comparison_does_again_what_has_changed_when_weights_do(
    call: Call, inputs: Inputs, words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert call("train", *inputs.words(), *TRAIN, f"run.dir={run}").code == 0
    words = [*words, "seeds=0", "tasks=classification"]
    words = [word for word in words if "task.span" not in word]
    assert call(*words).code == 0
    weights = load_file(run / "student" / "model.safetensors")
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name] + torch.ones(())}, run / "student" / "model.safetensors", {"format": "pt"})
    again = call(*words)
    assert again.code == 0 and "2 fine-tunings, 1 of them done already" in again.err
    assert "[2/2] classification, run, seed 0" in again.err


def test_run_is_left_alone_when_it_is_named_as_the_comparisons_folder(
    call: Call, inputs: Inputs, words: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert call("train", *inputs.words(), *TRAIN, f"run.dir={run}").code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    result = call(*words, f"run.dir={run}")
    assert result.code == 2 and "holds a run, which a comparison would overwrite" in result.err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_twins_are_fine_tuned_once_and_a_missing_head_costs_no_process_when_compared(
    call: Call, inputs: Inputs, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(inputs.teacher, tmp_path / "copy")
    started: list[str] = []

    def run_units(units: list[Unit], place: Path, *, on_end: Callable[[Unit, str | None], None], **_: Any) -> None:
        for unit in units:
            started.append(unit.key)
            unit.folder(place).mkdir(parents=True)
            rows = len(make(unit.node).parts["test"])
            (unit.folder(place) / "answers.json").write_text(json.dumps(["0"] * rows))
            result = {"score": 0.5, "metrics": {"test": {"accuracy": 0.5}}, "seed": 0, "seconds": 1.0, "max_length": 64,
                      "full": 0.0, "threads": 1, "device": "cpu", "peak_memory_mb": 1.0}  # fmt: skip
            (unit.folder(place) / "result.json").write_text(json.dumps(result))
            on_end(unit, None)

    def check_model(self: Classification, config: Any, *, name: str) -> None:
        if name == "bare":
            raise TeacherError("transformers has no such head", key="models", value=name)

    monkeypatch.setattr(compare, "run_units", run_units)
    monkeypatch.setattr(Classification, "check_model", check_model)
    make_bert(num_hidden_layers=1).save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    words = [word for word in words if not word.startswith(("models", "tasks", "seeds", "task.span"))]
    given = f"models=[{inputs.teacher},{tmp_path / 'copy'},{tmp_path / 'bare'}]"
    result = call(*words, given, "tasks=classification", "seeds=0", "--json")
    assert result.code == 5 and len(started) == 1, result.err
    facts = json.loads(result.out)
    assert set(facts["scores"]["copy"]) == set(facts["scores"]["teacher"]) == {"classification"}
    assert [unit["model"] for unit in facts["failed"]] == ["bare"] and "no such head" in facts["failed"][0]["error"]
    assert "[3/3]" in result.err and result.err.count("accuracy 0.500") == 2


def test_hub_names_give_one_line_when_there_is_no_network(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    task = call("compare", f"models=[{inputs.teacher}]", "tasks=[mrpc]", f"run.dir={tmp_path / 'compare'}")
    assert task.code == 2 and len(task.err.strip().splitlines()) == 1, task.err
    assert task.err.startswith("error: task.mrpc.source.name=nyu-mll/glue: cannot be loaded")
    rows = write_rows(tmp_path / "rows.tsv", 12)
    local = ["tasks=classification", f"task.classification.files.train={rows}", f"run.dir={tmp_path / 'compare'}"]
    model = call("compare", "models=[some/hub-model]", *local)
    assert model.code == 2 and len(model.err.strip().splitlines()) == 1, model.err
    assert model.err.startswith("error: models=some/hub-model: no such folder, and the hub is out of reach")
