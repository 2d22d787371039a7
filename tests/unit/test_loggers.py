"""metrics.csv: continued by a resumed run, readable at any time."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.rundir import read_metrics
from distillkit.training.loggers import MetricsFile


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of steps 10, 20 and 30 with train/loss, and valid/loss at step 20."""
    path = tmp_path / "metrics.csv"
    log = MetricsFile(path)
    for step in (10, 20, 30):
        log.log_metrics({"train/loss": step / 8, "epoch": 0.0}, step)
        if step == 20:
            log.log_metrics({"valid/loss": 0.1}, step)
    return path


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in read_metrics(path)]


def test_metrics_can_be_read_after_every_row_when_new_names_appear(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.csv"
    log, expected = MetricsFile(path), []
    for step, metrics in ((1, {"a": 0.1}), (2, {"a": 0.2, "b": 1e-12}), (3, {"b": float("nan")}), (4, {"a": 3.0})):
        log.log_metrics(metrics, step)
        expected.append({"step": str(step)} | {name: repr(value) for name, value in metrics.items()})
        assert read_metrics(path) == expected
    assert path.read_text().splitlines()[0] == "step,a,b"
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]


def test_metrics_continue_without_later_rows_when_resumed(table: Path) -> None:
    log = MetricsFile(table, resumed_step=20)
    log.log_metrics({"train/loss": 9.0}, 30)
    log.log_metrics({"lr": 0.5}, 40)
    assert steps(table) == [10, 20, 20, 30, 40]
    rows = read_metrics(table)
    assert rows[2] == {"step": "20", "valid/loss": "0.1"}
    assert rows[3] == {"step": "30", "train/loss": "9.0"}
    assert rows[4] == {"step": "40", "lr": "0.5"}


def test_metrics_start_anew_when_resumed_from_nothing(table: Path) -> None:
    MetricsFile(table).log_metrics({"train/loss": 1.0}, 10)
    assert steps(table) == [10]


def test_metrics_keep_the_old_rows_when_the_resumed_run_logs_nothing(table: Path) -> None:
    MetricsFile(table, resumed_step=20)
    assert steps(table) == [10, 20, 20, 30]


@pytest.mark.parametrize("cut", range(1, 10))
def test_metrics_lose_no_whole_row_when_a_kill_cut_the_last_one(table: Path, cut: int) -> None:
    content = table.read_bytes()
    table.write_bytes(content[:-cut])
    whole = read_metrics(table)
    assert steps(table)[:3] == [10, 20, 20]
    assert all(row["step"] in ("10", "20", "30") for row in whole)
    MetricsFile(table, resumed_step=20).log_metrics({"train/loss": 3.75}, 30)
    assert steps(table) == [10, 20, 20, 30]
