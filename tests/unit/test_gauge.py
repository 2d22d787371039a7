"""The gauge of a run's speed: figures of a window from what its steps did, and what a real run writes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distillkit.flops import ModelFlops, StepFlops
from distillkit.phases import NAMES, PhaseClock, phase, run_clock
from distillkit.rundir import read_metrics
from distillkit.training.callbacks import figures
from distillkit.training.speed import SpeedGauge
from distillkit.types import Batch, StepTotals
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs, Recipe, Run

CPU = torch.device("cpu")
FLOPS = StepFlops(ModelFlops(10.0, 1.0, 5.0), ModelFlops(20.0, 2.0, 7.0), "predicted", compared=True)
BATCH = Batch(torch.zeros(3, 8, dtype=torch.long), None, torch.zeros(3, 8), 0, 0, StepTotals(100, 15))


@pytest.fixture(autouse=True)
def no_clock() -> Iterator[None]:
    yield
    run_clock(None)


def read(seconds: dict[str, float]) -> Any:
    return lambda self: dict.fromkeys(NAMES, 0.0) | seconds


def test_window_divides_by_its_own_steps_when_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = SpeedGauge(CPU, flops=FLOPS, roof=1000.0, ranks=2)
    for steps, seconds in ((4, {"data": 2.0, "backward": 6.0}), (1, {"loss": 5.0})):
        for _ in range(steps):
            gauge.note(BATCH)
        monkeypatch.setattr(PhaseClock, "read", read(seconds))
        found, total = gauge.window(), sum(seconds.values())
        work = steps * (100 * (3 * 18 + 36) + 15 * (3 * 5 + 7)) / total
        assert found["tokens_per_second"] == steps * 100 / total
        assert found["seconds_per_step"] == total / steps
        assert (found["flops_per_second"], found["mfu"]) == (work, work / 2000)
        assert {name: found[f"{name}_seconds"] * steps for name in seconds} == seconds
        assert sum(found[f"{name}_seconds"] for name in NAMES) == pytest.approx(found["seconds_per_step"])
    assert gauge.window() == {}


def test_window_counts_no_operations_of_the_teacher_when_its_states_were_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = iter([(5, 5), (8, 6), (8, 6)])  # at the start, and after a window that read 3 and computed 1
    gauge = SpeedGauge(CPU, flops=FLOPS, roof=None, rows=lambda: next(rows))
    gauge.note(BATCH)
    monkeypatch.setattr(PhaseClock, "read", read({"loss": 1.0}))
    assert gauge.window()["flops_per_second"] == 100 * (3 * 18 + 36 * 0.25) + 15 * (3 * 5 + 7)


@pytest.mark.parametrize(("flops", "roof", "there"), [(None, 1.0, set()), (FLOPS, None, {"flops_per_second"})])
def test_window_leaves_out_what_is_unknown_when_read(
    flops: StepFlops | None, roof: float | None, there: set[str]
) -> None:
    gauge = SpeedGauge(CPU, flops=flops, roof=roof)
    gauge.note(BATCH)
    assert {"flops_per_second", "mfu"} & gauge.window().keys() == there


def test_pause_is_in_no_window_when_phases_are_called_in_it() -> None:
    gauge = SpeedGauge(CPU, flops=None, roof=None)
    gauge.pause()
    with phase("teacher"):
        pass
    gauge.go_on()
    with phase("data"):
        pass
    gauge.note(BATCH)
    found = gauge.window()
    assert found["teacher_seconds"] == 0 < found["data_seconds"]


def test_run_writes_phases_that_add_up_and_a_resumed_one_those_of_its_own_steps(
    call: Call, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window of 4 steps; stopped at step 6, so that the window of step 8 has two steps of the second session."""
    windows: list[tuple[int, dict[str, float]]] = []
    measured = SpeedGauge.window

    def window(self: SpeedGauge) -> dict[str, float]:
        windows.append((self._steps, measured(self)))
        return windows[-1][1]

    monkeypatch.setattr(SpeedGauge, "window", window)
    run = Run(tmp_path / "run")
    words = [*Recipe().words(inputs, every=2), "trainer.log_every_n_steps=4", f"run.dir={run.path}"]
    assert call(*words, "trainer.max_steps=6").code == 0
    before = json.loads((run.path / "run.json").read_text())
    monkeypatch.setattr("distillkit.roof.probe_roof", lambda *_: pytest.fail("measured again"))
    assert call("resume", str(run.path), "trainer.max_steps=8").code == 0
    assert [steps for steps, _ in windows] == [4, 2]
    after = json.loads((run.path / "run.json").read_text())
    assert after["roof"] == before["roof"] and before["roof"]["dtype"] == "float32"
    assert before["threads"] == 1 and before["huge_pages"] in (True, False)
    rows = [row for row in read_metrics(run.path / "metrics.csv") if "speed/mfu" in row]
    assert [row["step"] for row in rows] == ["4", "8"]
    for row in rows:
        phases = {name: float(row[f"speed/{name}_seconds"]) for name in NAMES}
        assert sum(phases.values()) == pytest.approx(float(row["speed/seconds_per_step"]), rel=1e-3)
        assert all(phases[name] > 0 for name in NAMES if name != "checkpoint"), phases
    assert float(rows[0]["speed/checkpoint_seconds"]) > 0  # that of step 2; that of step 8 follows the last window


def test_line_tells_pace_and_share_of_the_roof_when_they_are_logged() -> None:
    module: Any = SimpleNamespace(
        latest={"train/ce": 0.5, "speed/tokens_per_second": 12345.6, "speed/mfu": 0.413, "lr": 1}
    )
    assert figures(module) == "12,346 tokens/s  41% of the roof  ce 0.500"
    del module.latest["speed/mfu"]
    assert figures(module) == "12,346 tokens/s  ce 0.500"
    assert figures(SimpleNamespace()) == ""  # type: ignore[arg-type]


def test_clock_stops_when_training_has_ended(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    words = [*Recipe().words(inputs, every=2), f"run.dir={tmp_path / 'run'}", "trainer.max_steps=1"]
    assert call(*words).code == 0
    assert phase("data") is phase("loss")
