"""The tables of a comparison: every cell is a number of the results, a dash what is not there."""

from __future__ import annotations

from typing import Any

import pytest

from distillkit.comparison import tables
from tests.unit.comparison.example import MODELS, SCORES, results


def test_scores_are_in_the_papers_shape_when_shown() -> None:
    head, rows = tables.score_table(results())
    assert head == [
        "layers", "parameters", "speed-up", "sst2", "wnut17", "demo_imdb", "squad", "average", "retained"
    ]  # fmt: skip
    shown = dict(rows)
    assert shown["bert"] == [
        "12", "109.5 M", "1.0x",
        "92.4 ± 0.3", "46.1 ± 0.3", "91.1 ± 0.3", "88.2 ± 0.3", "79.5 ± 0.3", "100.0%"
    ]  # fmt: skip
    assert shown["albert"][1:3] == ["11.2 M (96.9 M)", "1.0x"]
    assert shown["distilbert"][-2:] == ["76.6 ± 0.3", "96.4%"]


def test_scores_show_a_dash_and_fewer_seeds_when_units_failed() -> None:
    facts = results(SCORES | {"albert": {"sst2": 0.871}}, reference=None)
    del facts["scores"]["bert"]["sst2"]["seeds"]["1"]
    shown = dict(tables.score_table(facts).rows)
    assert shown["albert"][2:] == ["-", "87.1 ± 0.3", "-", "-", "-", "-", "-"]
    assert shown["bert"][3] == "92.4 ± 0.3 (2 seeds)" and shown["bert"][4] == "46.1 ± 0.3"


def test_scores_have_no_spread_when_there_is_one_seed() -> None:
    shown = dict(tables.score_table(results(seeds=[7])).rows)
    assert shown["bert"][3:] == ["92.4", "46.1", "91.1", "88.2", "79.5", "100.0%"]


def test_costs_tell_how_models_were_made_and_their_source_when_that_is_not_known() -> None:
    assert tables.efficiency_table(results()).rows[0] == (
        "made", ["teacher", "distilled from bert", "distilled from bert", "trained without a teacher"]
    )  # fmt: skip
    rows = {"tiny": MODELS["albert"] | {"role": "model"}}
    table = tables.efficiency_table(results({"tiny": {"sst2": 0.9}}, models=rows, reference=None))
    assert table.rows[0] == ("made", ["runs/tiny"])


def test_glue_is_averaged_over_its_own_tasks_when_others_ran_too() -> None:
    table = tables.glue_table(results({"bert": {"sst2": 0.9, "rte": 0.7, "squad": 0.5}, "albert": {"sst2": 0.8}}))
    assert table is not None and table.head == ["sst2", "rte", "GLUE average (2 of 9)"]
    assert dict(table.rows)["bert"] == ["90.0 ± 0.3", "70.0 ± 0.3", "80.0 ± 0.3"]
    assert dict(table.rows)["albert"] == ["80.0 ± 0.3", "-", "-"]


def test_glue_has_no_table_of_its_own_when_it_is_all_or_nothing() -> None:
    everything = results({"bert": {"sst2": 0.9, "rte": 0.7}})
    assert tables.glue_table(everything) is None
    assert "GLUE average (2 of 9)" in tables.score_table(everything).head
    assert tables.glue_table(results({"bert": {"squad": 0.5, "sst2": 0.9}})) is None, "one task is no average"
    assert tables.score_table(results({"bert": {"sst2": 0.9}})).head[-2] == "average"


def test_metrics_are_those_of_every_test_set_when_a_task_has_two() -> None:
    facts = results({"bert": {"mnli": 0.84, "squad": 0.8}, "albert": {"squad": 0.7}})
    head, rows = tables.metric_table(facts)
    assert head == list(MODELS)
    assert rows[:2] == [
        ("mnli: accuracy, test", ["84.0 ± 0.3", "-", "-", "-"]),
        ("mnli: accuracy, test mismatched", ["84.0 ± 0.3", "-", "-", "-"]),
    ]
    assert rows[2:] == [
        ("squad: exact match", ["80.0 ± 0.3", "-", "70.0 ± 0.3", "-"]),
        ("squad: f1", ["80.0 ± 0.3", "-", "70.0 ± 0.3", "-"]),
    ]


def test_thresholds_are_shown_as_they_are_when_a_metric_is_one() -> None:
    facts = results({"bert": {"squad": 0.8}})
    facts["scores"]["bert"]["squad"]["metrics"]["test"]["best_f1_thresh"] = {"mean": -1.5, "sd": 0.25}
    _, rows = tables.metric_table(facts)
    assert rows[-1] == ("squad: best f1 thresh", ["-1.50 ± 0.25", "-", "-", "-"][: len(rows[-1][1])])


def test_costs_are_shown_with_their_units_when_known() -> None:
    head, rows = tables.efficiency_table(results())
    shown = {label: cells[head.index("albert")] for label, cells in rows}
    expected = {
        "unique parameters": "11,221,680", "nominal parameters": "96,868,272", "size on disk, MB": "44.9",
        "CPU latency, median ms": "80.20", "texts/s at 384 tokens": "20.4", "FLOPs a token, M": "171.3",
        "compression": "9.8x", "speed-up": "1.0x", "own training, time": "1 h 30 min",
        "own training, peak memory, MB": "2,100", "own training, USD": "1.50",
        "own training, steps": "2,000", "own training, tokens": "8,192,000",
        "fine-tuning, mean time of a task": "5 min 12 s", "fine-tuning, peak memory, MB": "1,500",
    }  # fmt: skip
    assert {label: shown[label] for label in expected} == expected
    assert "own training, peak GPU memory, MB" not in shown
    assert next(cells for label, cells in rows if label == "own training, time")[head.index("bert")] == "-"


@pytest.mark.parametrize(("value", "text"), [(0.0042, "0.0042"), (0.123, "0.12"), (1.5, "1.50"), (1234.5, "1,234.50")])
def test_money_keeps_two_digits_when_little(value: float, text: str) -> None:
    assert tables.money_text(value) == text


def test_costs_leave_out_what_is_not_known_when_nothing_was_measured() -> None:
    facts = results({"bert": {"sst2": 0.9}}, models={"bert": MODELS["bert"]}, reference=None)
    unknown = ("latency_ms", "latency_p95_ms", "latency_spread", "throughput", "flops_per_token", "disk_mb")
    facts["models"]["bert"] |= dict.fromkeys((*unknown, "peak_memory_mb"))
    labels = [label for label, _ in tables.efficiency_table(facts).rows]
    assert labels[:4] == ["made", "layers", "unique parameters", "nominal parameters"]
    assert labels[4:] == ["fine-tuning, mean time of a task", "fine-tuning, peak memory, MB"]


def test_disagreements_tell_who_was_right_when_there_are_any() -> None:
    found = tables.disagreement_tables(results())
    assert list(found) == ["sst2", "wnut17", "demo_imdb", "squad"]
    assert found["sst2"].head == ["rows", "differ", "reference right", "model right"]
    assert dict(found["sst2"].rows) == {
        name: ["872", "8.3%", "51", "21"] for name in ("distilbert", "albert", "control")
    }
    assert tables.disagreement_tables(results(reference=None)) == {}


def test_recipe_and_tasks_show_every_setting_when_listed() -> None:
    facts = results()
    assert dict(tables.recipe_table(facts).rows) | {"lr": ["5e-05"], "seeds": ["0, 1, 2"], "clip": ["1"]} == dict(
        tables.recipe_table(facts).rows
    )
    table = tables.task_table(facts)
    assert dict(table.rows)["squad"] == [
        "span", "exact match, f1", "train 12,000, test 872", "128", "3 epochs", "32", "5e-05", "hub: squad"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "text", "row"),
    [
        ({"epochs": 1, "steps": None}, "1 epoch", "epochs"),
        ({"epochs": 0.5}, "0.5 epochs", "epochs"),
        ({"epochs": None, "steps": 1000}, "1,000 steps", "steps"),
        ({"epochs": None, "steps": 1}, "1 step", "steps"),
    ],
)
def test_recipe_and_tasks_tell_how_long_training_is_when_epochs_or_steps_end_it(
    recipe: dict[str, Any], text: str, row: str
) -> None:
    facts = results()
    for entry in (facts["recipe"], facts["tasks"]["squad"]):
        del entry["steps"]
        entry.update(recipe)
    assert dict(tables.task_table(facts).rows)["squad"][4] == text
    shown = dict(tables.recipe_table(facts).rows)
    assert shown[row] == [str(recipe[row])] and len({"epochs", "steps"} & shown.keys()) == 1


def test_terminal_shows_means_alone_when_there_are_many_tasks() -> None:
    few = tables.short_table(results())
    assert few.head[:3] == ["layers", "parameters", "latency"] and few.rows[0][1][2:4] == ["84.1 ms", "92.4 ± 0.3"]
    many = tables.short_table(results({"bert": dict.fromkeys("abcdefghi", 0.5)}))
    assert many.rows[0][1][2:4] == ["84.1 ms", "50.0"] and len(many.head) == 3 + 9 + 2
