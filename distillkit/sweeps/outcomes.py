"""What an arm's folder and log tell of how it is getting on, and why it ended."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from distillkit.rundir import CONFIG, EVALUATION, METRICS, read_metrics
from distillkit.status import read_status

PREEMPTED = 143


def has_begun(run: Path) -> bool:
    """Whether the folder holds a run, which `resume` continues."""
    return (run / CONFIG).is_file()


def has_finished(run: Path) -> bool:
    """Whether the folder holds a run that is trained, evaluated and exported."""
    return has_begun(run) and read_status(str(run))["state"] == "finished"


def step_of(run: Path) -> int:
    """The newest optimizer step the folder tells of; 0 before the first."""
    return read_status(str(run))["step"] if has_begun(run) else 0


def metric_rows(run: Path, metric: str) -> list[tuple[int, float]]:
    """(optimizer step, value) of every row of metrics.csv that has the metric."""
    rows = read_metrics(run / METRICS)
    return [(int(row["step"]), float(row[metric])) for row in rows if metric in row]


def last_value(run: Path, metric: str) -> float | None:
    """The newest value of a metric in a run's metrics.csv; None before the first.

    A run that ended before its first validation has none of valid/*: then that of its evaluation after training, on the
    same texts and masks.
    """
    rows = metric_rows(run, metric)
    if rows:
        return rows[-1][1]
    group, _, name = metric.partition("/")
    file = run / EVALUATION
    if group != "valid" or not file.is_file():
        return None
    value = json.loads(file.read_text()).get("student", {}).get(name)
    return None if value is None else float(value)


def reason_of(code: int, log: Path, offset: int) -> str:
    """Why a process failed, in one line.

    Args:
        code: its exit code; negative, or beyond 128: the signal that ended it.
        log: its output.
        offset: bytes of the log that are of earlier processes.
    """
    text = log.read_bytes()[offset:].decode(errors="replace") if log.is_file() else ""
    errors = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    number = -code if code < 0 else code - 128
    if number in {known.value for known in signal.Signals}:
        name = signal.Signals(number).name
        killed = f"killed by signal {number} ({name})"
        if errors:  # Lightning kills the first of several ranks when another has failed
            return f"{killed} after: {errors[-1]}"
        return killed + (", out of memory?" if name == "SIGKILL" else "")
    if errors:
        return errors[-1]
    return "ended before the run was finished" if code == 0 else f"ended with exit code {code}"
