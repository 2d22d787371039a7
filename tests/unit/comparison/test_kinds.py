"""Every kind of task as a unit: fine-tuned on a file, judged, its answers written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit import config
from distillkit.building import make
from distillkit.comparison.units import ANSWERS, RESULT, plan_units, run_unit
from tests.faults.harness import Inputs
from tests.unit.comparison.made_tasks import write_lines
from tests.unit.comparison.test_units import contender

ROWS: dict[str, Any] = {
    "classification": lambda n: {"text": f"w{n} w1", "label": "ab"[n % 2]},
    "pair": lambda n: {"sentence1": f"w{n} w1", "sentence2": "w2", "label": "ab"[n % 2]},
    "regression": lambda n: {"text": f"w{n} w1", "label": n / 10},
    "tagging": lambda n: {"tokens": [f"w{n}", "w1"], "ner_tags": ["B-PER", "O"]},
    "span": lambda n: {
        "id": str(n), "question": "w3", "context": f"w{n} w1", "answers": {"text": ["w1"], "answer_start": [3]},
    },
    "choice": lambda n: {"context": f"w{n}", "question": "w3 _", "options": ["w1", "w2", "w4"], "answer": "ABC"[n % 3]},
}  # fmt: skip
"""Kind -> its row of a number from 0 to 9."""

METRICS = {
    "classification": {"accuracy"},
    "pair": {"accuracy"},
    "regression": {"pearson", "spearman"},
    "tagging": {"f1", "precision", "recall", "accuracy"},
    "span": {"f1", "exact_match"},
    "choice": {"accuracy"},
}


@pytest.mark.parametrize("name", ROWS)
def test_unit_writes_metrics_and_one_answer_a_row_when_its_task_is_of_a_kind(
    name: str, inputs: Inputs, tmp_path: Path
) -> None:
    rows = [ROWS[name](n) for n in range(10)]
    train, test = (write_lines(tmp_path / part, some) for part, some in (("a.jsonl", rows), ("b.jsonl", rows[3:])))
    words = [
        f"tasks={name}", "models=m", "seeds=0", "batch_size=4", "trainer.max_epochs=1", f"task.{name}.epochs=1",
        f"task.{name}.max_length=32", f"task.{name}.files.train={train}", f"task.{name}.files.test={test}",
    ]  # fmt: skip
    cfg = config.settle(*config.load("compare", words))
    task = make(cfg["task"][name])
    assert task.kind == ("classification" if name == "pair" else name)
    (unit,) = plan_units(cfg, [contender(inputs.teacher)], {name: task})
    run_unit(unit, tmp_path)
    result, answers = (json.loads((tmp_path / file).read_text()) for file in (RESULT, ANSWERS))
    assert set(result["metrics"]["test"]) == METRICS[name] and result["steps"] == 3
    assert len(answers) == 7
