"""What status says of a folder made by hand: rows that will be made again do not count; large figures are readable."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distillkit import status
from distillkit.rundir import CONFIG, EVENTS, METRICS

RESUMED = [("start", 100.0, 0), ("checkpoint", 110.0, 6), ("resume", 500.0, 6)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Trained to step 12, saved at 6, and resumed from there at second 500."""
    (tmp_path / CONFIG).touch()
    lines = [{"time": time, "event": name, "step": step, "steps": 40} for name, time, step in RESUMED]
    (tmp_path / EVENTS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / METRICS).write_text("step,train/ce,valid/kl\n3,0.5,\n6,,0.25\n9,0.125,\n12,,0.0625\n")
    return tmp_path


@pytest.mark.parametrize(("written", "step", "loss", "kl"), [(499.0, 6, 0.5, 0.25), (501.0, 12, 0.125, 0.0625)])
def test_status_counts_no_row_beyond_the_checkpoint_when_just_resumed(
    written: float, step: int, loss: float, kl: float, run: Path
) -> None:
    os.utime(run / METRICS, (written, written))
    found = status.read_status(str(run))
    assert (found["step"], found["train"], found["held_out"]) == (step, {"ce": loss}, {"kl": kl})
    assert found["updated"] == max(written, 500.0)


def test_status_reads_a_run_when_it_has_no_metrics_yet(run: Path) -> None:
    (run / METRICS).unlink()
    found = status.read_status(str(run))
    assert (found["state"], found["step"], found["train"]) == ("stopped", 6, {})


def test_status_asks_once_who_holds_the_run_when_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Any = iter([4711])
    monkeypatch.setattr(status, "holder", lambda folder: next(answers))
    found = status.read_status(str(run))
    assert (found["state"], found["pid"]) == ("running", 4711)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345.6, "12,346"),
        (1234567, "1,234,567"),
        (999.94, "999.9"),
        (0.00012345678, "0.0001235"),
        (float("nan"), "nan"),
    ],
)
def test_figures_are_readable_when_large_or_small(value: float, text: str, run: Path) -> None:
    found = status.read_status(str(run)) | {"train": {"ce": value}}
    assert f"  train: ce {text}" in status.as_text(found).splitlines()


def test_status_tells_pace_and_largest_phases_when_the_run_measured_them(run: Path) -> None:
    assert status.read_status(str(run))["speed"] == {}
    (run / METRICS).write_text(
        "step,train/ce,lr,speed/tokens_per_second,speed/seconds_per_step,speed/mfu,speed/data_seconds,"
        "speed/backward_seconds,speed/other_seconds\n6,0.5,0.1,12345.6,2.0,0.41,0.5,1.46,0.04\n"
    )
    found = status.read_status(str(run))
    assert found["train"] == {"ce": 0.5, "lr": 0.1} and found["speed"]["mfu"] == 0.41
    line = "  speed: 12,346 tokens/s, 41% of the roof, 2 s a step: student backward 73%, waiting for data 25%"
    assert line in status.as_text(found).splitlines()
