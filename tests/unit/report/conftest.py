"""Small run folders made by hand, with real tiny models in them, and one report over three of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distillkit.evaluation.summary import describe_model
from distillkit.export import export
from distillkit.report import document, facts
from distillkit.rundir import EVENTS, METRICS, STUDENT, RunFolder
from distillkit.students import build_albert, build_distilbert
from distillkit.students.transfer import BuiltStudent
from tests.faults.harness import make_bert, make_tokenizer

MakeRun = Callable[..., Path]
STUDENTS: dict[str, Callable[..., BuiltStudent]] = {
    "distilbert": partial(build_distilbert, num_layers=2),
    "albert": build_albert,
    "albert_ffn": partial(build_albert, share="ffn"),
}
TEACHER_FIGURES = {"mlm_loss": 3.25, "perplexity": 25.79, "top1": 0.5}
STUDENT_FIGURES = {"mlm_loss": 4.125, "perplexity": 61.87, "top1": 0.375, "agreement": 0.6125, "kl": 0.51}
FINISHED = [("start", 100.0, 0), ("checkpoint", 110.0, 6), ("finish", 131.5, 12)]
PHASE_SECONDS = {"data": 0.25, "teacher": 0.5, "forward": 0.25, "loss": 0.25, "backward": 0.5, "optimizer": 0.125,
                 "checkpoint": 0.0, "other": 0.125}  # fmt: skip
SPEED_NAMES = ["tokens_per_second", "mfu", "flops_per_second", *(f"{name}_seconds" for name in PHASE_SECONDS)]
METRICS_TEXT = f"step,train/ce,train/mlm,{','.join(f'speed/{n}' for n in SPEED_NAMES)},valid/mlm_loss,valid/top1\n"
METRICS_TEXT += "".join(
    f"{step},{9 / step!r},{8 / step!r},{1000 + step}.0,0.5,8e9,{','.join(map(str, PHASE_SECONDS.values()))},,\n"
    f"{step},,,{',' * len(SPEED_NAMES)}{7 / step!r},0.3\n"
    for step in range(2, 13, 2)
)


def costs(models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """In place of `measure_efficiency`, which takes seconds; each model costs more than the one before."""
    speed = {"p95": 9.0, "spread": 0.05, "length": 128, "batch": 1, "threads": 1}
    return {
        name: {"disk_bytes": 10**6 * (i + 1), "latency_ms": speed | {"median": i + 1.5}, "peak_memory_mb": 300.0 + i}
        for i, name in enumerate(models)
    }


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models cost what `costs` says."""
    monkeypatch.setattr(facts, "measure_efficiency", costs)


@pytest.fixture(scope="session")
def teacher_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of four tiny layers with a tokenizer. Not to be changed."""
    path = tmp_path_factory.mktemp("report") / "my_bert"
    make_bert().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def config(teacher: Path | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    weights = {"ce": 5.0 if teacher else 0.0, "mlm": 2.0, "cos": 0.0}
    return {
        "teacher": {"path": str(teacher) if teacher else None},
        "student": {"init_from": None if teacher else "my_bert"},
        "loss": {
            "temperature": 2.0,
            "positions": "all",
            "terms": {name: {"weight": weight} for name, weight in weights.items()},
        },
        "data": {"batch_size": 4, "batch_tokens": None, "num_workers": 0},
        "trainer": {"precision": "bf16-mixed", "log_every_n_steps": 2, "accumulate_grad_batches": 1},
        "checkpoint": {"every_n_steps": 6},
        "masking": {"probability": 0.15},
        "run": {"evaluation_batches": None},
    } | changes


def run_facts(built: BuiltStudent, corpus: str) -> dict[str, Any]:
    return {
        "version": "0.1.0",
        "threads": 1,
        "corpus": corpus,
        "tokens_per_step": 512.0,
        "student": describe_model(built.model),
        "transfer": built.report.to_dict(),
    }


@pytest.fixture(scope="session")
def make_run(teacher_path: Path) -> MakeRun:
    """make_run(path, ...): writes a run's folder as train would.

    Args: student, of STUDENTS; teacher, None for the control, "teacher" for the fixture's; events, as
    (name, time, step); figures of evaluation.json, None while there is none; corpus; steps aimed at;
    overrides; changes to its config.
    """
    source = make_bert()

    def make(
        path: Path,
        *,
        student: str = "distilbert",
        teacher: str | Path | None = "teacher",
        events: list[tuple[str, float, int]] = FINISHED,
        figures: Mapping[str, float] | None = STUDENT_FIGURES,
        corpus: str = "abc",
        steps: int = 12,
        overrides: tuple[str, ...] = ("experiment=demo", "run.dir=old"),
        **changes: Any,
    ) -> Path:
        teacher = teacher_path if teacher == "teacher" else teacher
        built = STUDENTS[student](source)
        run = run_facts(built, corpus)
        with RunFolder(path, new=True) as folder:
            folder.write_config(config(Path(teacher) if teacher else None, changes), list(overrides), run)
            if figures is not None:
                rows = {"teacher": describe_model(source) | TEACHER_FIGURES} if teacher else {}
                folder.write_evaluation(rows | {"student": run["student"] | dict(figures)})
                export(built.model, make_tokenizer(), path / STUDENT)
        lines = [{"time": time, "event": name, "step": step, "steps": steps} for name, time, step in events]
        (path / EVENTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        (path / METRICS).write_text(METRICS_TEXT)
        return path

    return make


@pytest.fixture(scope="session")
def report(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report over a DistilBERT-style run, an ALBERT-style one and the control; the runs lie in it."""
    place = tmp_path_factory.mktemp("three")
    runs = [
        make_run(place / "distilbert"),
        make_run(place / "albert", student="albert"),
        make_run(place / "control", teacher=None, figures={"mlm_loss": 4.5, "perplexity": 90.0, "top1": 0.25}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts, "measure_efficiency", costs)
        document.write_report(runs, place)
    return place
