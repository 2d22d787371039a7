"""What a comparison gathers from its units: means and spreads, shares of the reference, failures, disagreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.building import make
from distillkit.comparison.models import Contender
from distillkit.comparison.results import gather, reference_of
from distillkit.comparison.tasks.classification import Classification
from distillkit.comparison.units import ANSWERS, RESULT, Unit, plan_units
from tests.faults.harness import Inputs
from tests.unit.comparison.test_units import settled

SIZES = {"class": "C", "layers": 4, "hidden_size": 32, "unique_parameters": 100, "nominal_parameters": 100}
SPEED = {"median": 4.0, "p95": 5.0, "spread": 0.1, "length": 128, "batch": 1, "threads": 1, "rounds": 9}


class Comparison:
    """A comparison of a teacher and a student on one task with two seeds, whose units are written by hand."""

    def __init__(self, source: Path, folder: Path, *words: str) -> None:
        self.place, self.errors = folder, dict[Unit, str]()
        self.cfg = settled(folder, "seeds=[0,1]", *words)
        self.models = [
            Contender("big", "big", "/x/big", source, "0", "0", SIZES, role="teacher"),
            Contender("small", "small", "/x/small", source, "1", "1", SIZES, role="student", teacher="big",
                      training={"seconds": 1800.0, "peak_memory_mb": 9.0, "peak_gpu_memory_mb": None}),
        ]  # fmt: skip
        self.tasks = {name: make(node) for name, node in self.cfg["task"].items()}
        self.units = plan_units(self.cfg, self.models, self.tasks)

    def write(self, model: str, seed: int, accuracy: float, answers: list[str] | None = None, **more: Any) -> None:
        unit = next(unit for unit in self.units if (unit.model, unit.seed) == (model, seed))
        result = {"model": model, "task": unit.task, "seed": seed, "metrics": {"test": {"accuracy": accuracy}},
                  "score": accuracy, "steps": 1, "seconds": 2.0 + seed, "max_length": 128, "threads": 1,
                  "device": "cpu", "peak_memory_mb": 5.0, "full": 0.0} | more  # fmt: skip
        folder = unit.folder(self.place)
        folder.mkdir(parents=True)
        (folder / RESULT).write_text(json.dumps(result))
        (folder / ANSWERS).write_text(json.dumps(answers or ["0"] * 20))

    def facts(self) -> dict[str, Any]:
        cost = {"disk_bytes": 2e6, "latency_ms": SPEED, "throughput": {"32": 7.0}, "throughput_batch": 16,
                "flops_per_token": 3.0, "peak_memory_mb": 8.0}  # fmt: skip
        costs = {"big": cost, "small": cost | {"latency_ms": SPEED | {"median": 2.0}}}
        return gather(self.cfg, ["models=m"], self.models, self.tasks, self.units, self.place, self.errors, costs)


@pytest.fixture
def comparison(inputs: Inputs, tmp_path: Path) -> Comparison:
    return Comparison(inputs.teacher, tmp_path, "price_per_hour=3")


def test_scores_are_means_and_sample_deviations_when_seeds_differ(comparison: Comparison) -> None:
    for model, seed, accuracy in (("big", 0, 0.8), ("big", 1, 0.9), ("small", 0, 0.7), ("small", 1, 0.66)):
        comparison.write(model, seed, accuracy)
    facts = comparison.facts()
    entry = facts["scores"]["small"]["classification"]
    assert entry["mean"] == pytest.approx(0.68) and entry["sd"] == pytest.approx(0.0282843, abs=1e-6)
    assert entry["seeds"] == {"0": 0.7, "1": 0.66} and entry["seconds"] == 2.5
    assert entry["retained"] == pytest.approx(0.8) and facts["scores"]["big"]["classification"]["retained"] == 1.0
    assert facts["models"]["small"]["retained"] == pytest.approx(0.8)
    assert facts["averages"]["small"] == {"all": pytest.approx(0.68), "glue": {"mean": None, "tasks": 0}}
    assert facts["reference"] == "big" and facts["failed"] == []
    json.dumps(facts, allow_nan=False)


def test_costs_stand_beside_the_reference_when_measured(comparison: Comparison) -> None:
    small = comparison.facts()["models"]["small"]
    assert (small["speed_up"], small["compression"], small["latency_ms"], small["disk_mb"]) == (2.0, 1.0, 2.0, 2.0)
    assert small["training"] == {"seconds": 1800.0, "peak_memory_mb": 9.0, "peak_gpu_memory_mb": None, "cost": 1.5}
    assert small["made"] == "distilled from big" and small["throughput"] == {"32": 7.0}


def test_failed_units_are_named_and_the_average_is_left_out_when_a_task_has_no_result(comparison: Comparison) -> None:
    comparison.write("big", 0, 0.8)
    comparison.errors[next(u for u in comparison.units if (u.model, u.seed) == ("small", 1))] = "killed by signal 9"
    facts = comparison.facts()
    failed = {(unit["model"], unit["seed"]): unit["error"] for unit in facts["failed"]}
    assert failed == {("big", 1): "not run", ("small", 0): "not run", ("small", 1): "killed by signal 9"}
    assert facts["scores"]["small"] == {} and facts["averages"]["small"]["all"] is None
    assert facts["models"]["small"]["retained"] is None
    assert facts["scores"]["big"]["classification"]["sd"] is None, "one seed has no spread"


def test_disagreement_counts_who_was_right_when_answers_differ(comparison: Comparison) -> None:
    gold = [str(i % 2) for i in range(20)]  # the labels of the rows, by name
    wrong = ["1" if label == "0" else "0" for label in gold]
    for seed in (0, 1):
        comparison.write("big", seed, 0.8, gold[:16] + wrong[16:])
        comparison.write("small", seed, 0.7, wrong[:5] + gold[5:])
    found = comparison.facts()["disagreements"]["classification"]
    assert list(found) == ["small"]
    row = found["small"]
    assert (row["rows"], row["differ"], row["reference_right"], row["model_right"]) == (20, 9 / 20, 5, 4)
    assert len(row["examples"]) == 6
    first = row["examples"][0]
    assert (first["gold"], first["reference"], first["model"]) == ("0", "0", "1") and "w2" in first["text"]


@pytest.mark.parametrize(("more", "said"), [
    ({"max_length": 64, "full": 0.5},
     "small reads 64 tokens at most: longer texts of classification are cut there."),
    ({"threads": 2}, "The fine-tunings ran on different numbers of threads: their times do not compare."),
])  # fmt: skip
def test_notes_say_what_does_not_compare_when_units_differ(
    more: dict[str, Any], said: str, comparison: Comparison
) -> None:
    comparison.write("big", 0, 0.8)
    comparison.write("small", 0, 0.7, **more)
    assert said in comparison.facts()["notes"]


def test_notes_say_nothing_of_a_limit_when_no_text_reaches_it(comparison: Comparison) -> None:
    comparison.write("small", 0, 0.7, max_length=64, full=0.0)
    assert comparison.facts()["notes"] == []


def test_kind_is_that_of_its_class_when_a_task_is_a_users_own(comparison: Comparison) -> None:
    class Tickets(Classification):
        """A user's own."""

    (task,) = comparison.tasks.values()
    comparison.tasks["classification"] = Tickets(text="text", files=task.source.files)  # type: ignore[union-attr]
    comparison.write("big", 0, 0.8)
    assert comparison.facts()["tasks"]["classification"]["kind"] == "classification"


def test_reference_is_the_teacher_unless_another_is_chosen(comparison: Comparison) -> None:
    assert reference_of(None, comparison.models[::-1]) == "big"
    assert reference_of("small", comparison.models) == reference_of("/x/small", comparison.models) == "small"
    assert reference_of("x", comparison.models) is None
    assert reference_of(None, [comparison.models[1]]) is None, "one model has nothing to be measured against"


def test_duration_is_told_in_steps_when_they_count(inputs: Inputs, tmp_path: Path) -> None:
    steps = Comparison(inputs.teacher, tmp_path, "trainer.max_steps=7", "trainer.accumulate_grad_batches=2")
    facts = steps.facts()
    for entry in (facts["recipe"], facts["tasks"]["classification"]):
        assert (entry["epochs"], entry["steps"], entry["batch_size"]) == (None, 7, 16)
