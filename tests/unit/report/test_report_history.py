"""What a run's folder tells: time without the pauses, curves that fit a page, the command, the layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.report.history import POINTS, read_curves, read_layers, read_run, thinned, time_spent, training_cost
from distillkit.rundir import RunFolder
from tests.unit.report.conftest import MakeRun


def reading(path: Path) -> RunFolder:
    return RunFolder(path, new=False, held=False)


@pytest.mark.parametrize(
    ("events", "seconds"),
    [
        ([], 0),
        ([("start", 5)], 0),
        ([("start", 5), ("checkpoint", 9), ("finish", 12.5)], 7.5),
        ([("start", 5), ("checkpoint", 9), ("resume", 1000), ("checkpoint", 1003), ("finish", 1004)], 8),
        ([("start", 5), ("resume", 100), ("finish", 101), ("resume", 500), ("checkpoint", 502)], 3),
    ],
    ids=["nothing", "just begun", "one session", "a pause", "killed at once, then continued"],
)
def test_time_counts_the_sessions_alone_when_a_run_was_resumed(events: list[tuple[str, float]], seconds: float) -> None:
    assert time_spent([{"event": name, "time": time} for name, time in events]) == seconds


def test_training_ends_with_the_last_checkpoint_of_each_session_when_a_run_was_resumed() -> None:
    times = [("start", 5), ("checkpoint", 9), ("checkpoint", 11), ("stop", 15), ("resume", 100), ("resume", 200)]
    times += [("checkpoint", 207), ("finish", 230)]
    events = [{"event": name, "time": time} for name, time in times]
    assert training_cost(events) == {"seconds": 13, "peak_memory_mb": None, "peak_gpu_memory_mb": None}


def test_training_takes_the_memory_of_its_worst_session_when_several_tell() -> None:
    told = [{}, {"peak_memory_mb": 900.0, "peak_gpu_memory_mb": 50.0}, {"peak_memory_mb": 700.5}]
    events = [{"event": "checkpoint", "time": 1.0} | memory for memory in told]
    events += [{"event": "finish", "time": 2.0, "peak_memory_mb": 5000.0}]
    assert training_cost(events) == {"seconds": 0, "peak_memory_mb": 900.0, "peak_gpu_memory_mb": 50.0}


@pytest.mark.parametrize("points", [1, POINTS, POINTS + 1, 12_345])
def test_curve_keeps_its_ends_and_fits_when_thinned(points: int) -> None:
    curve = [[float(step), step / 7] for step in range(points)]
    thin = thinned(curve)
    assert len(thin) == min(points, POINTS)
    assert thin[0] == curve[0] and thin[-1] == curve[-1]
    assert thin == sorted(thin) and all(point in curve for point in thin[:3])


def test_curves_leave_out_what_is_no_number_when_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/ce,valid/kl\n1,nan,\n2,0.5,\n2,,0.25\n3,inf,0.125\n4,0.1")
    assert read_curves(path) == {"train/ce": [[2, 0.5]], "valid/kl": [[2, 0.25], [3, 0.125]]}
    assert read_curves(tmp_path / "absent.csv") == {}


def test_run_says_how_far_it_is_when_interrupted(make_run: MakeRun, tmp_path: Path) -> None:
    events = [("start", 100.0, 0), ("checkpoint", 110.0, 6), ("resume", 500.0, 6)]
    run = read_run(reading(make_run(tmp_path / "run", events=events, figures=None, steps=20)))
    assert (run["state"], run["step"], run["steps"], run["evaluated_step"]) == ("stopped", 12, 20, None)
    assert (run["seconds"], run["sessions"], run["tokens"]) == (10, 2, 12 * 512)
    assert run["training"] == {"seconds": 10, "peak_memory_mb": None, "peak_gpu_memory_mb": None}
    assert run["tokens_per_second"] == 1008  # the median of the windows after the first
    assert run["weights"] == {"ce": 5.0, "mlm": 2.0, "cos": 0.0} and run["temperature"] == 2.0


def test_layers_share_a_block_when_the_student_does(make_run: MakeRun, tmp_path: Path) -> None:
    shared = read_run(reading(make_run(tmp_path / "albert", student="albert")))["layers"]
    assert shared["blocks"] == [{"layers": [0, 1, 2, 3], "origins": [0, 1, 2, 3]}]
    single = read_run(reading(make_run(tmp_path / "distilbert")))["layers"]
    assert single["blocks"] == [{"layers": [0], "origins": [0]}, {"layers": [1], "origins": [3]}]
    assert (single["source"], single["source_layers"]) == ("teacher", 4)
    assert read_run(reading(make_run(tmp_path / "control", teacher=None)))["layers"]["source"] == "my_bert"


def test_layers_are_called_by_the_run_when_taken_from_its_student() -> None:
    facts = {"student": {"unique_parameters": 1, "nominal_parameters": 1}, "transfer": {"layer_map": {}, "source": {}}}
    assert read_layers(facts, "/runs/with_head/student")["source"] == "with_head"


def test_layers_keep_a_block_each_when_groups_or_nothing_is_shared() -> None:
    def blocks(layer_map: dict[str, list[int]], nominal: int) -> list[list[int]]:
        facts = {
            "student": {"unique_parameters": 10, "nominal_parameters": nominal},
            "transfer": {"layer_map": layer_map, "source": {}},
        }
        return [block["layers"] for block in read_layers(facts, None)["blocks"]]

    groups = {"0": [0, 1], "1": [0, 1], "2": [2, 3], "3": [2, 3]}
    assert blocks(groups, 20) == [[0, 1], [2, 3]]
    assert blocks({"0": [1], "1": [1]}, 10) == [[0], [1]]
    assert blocks({str(n): [n] for n in range(12)}, 10) == [[n] for n in range(12)]
    assert blocks({}, 20) == []


def test_layers_keep_a_block_each_and_name_the_common_part_when_one_part_is_shared() -> None:
    facts = {
        "student": {"unique_parameters": 10, "nominal_parameters": 20},
        "transfer": {"layer_map": {"0": [2], "1": [2]}, "shared_map": {"ffn": [0, 1, 2]}, "source": {}},
    }
    layers = read_layers(facts, None)
    assert [block["layers"] for block in layers["blocks"]] == [[0], [1]]
    assert layers["shared"] == {"ffn": [0, 1, 2]}
