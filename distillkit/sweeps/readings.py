"""What the folder of one arm tells, at any moment of its run."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.evaluation.efficiency import stored_bytes
from distillkit.report.facts import held_out_text
from distillkit.report.history import read_curves
from distillkit.rundir import CONFIG, METRICS, STUDENT, RunFolder, read_events
from distillkit.status import read_status
from distillkit.sweeps.arms import Arm

HELD_OUT = ("mlm_loss", "kl", "agreement", "top1", "sop_accuracy")
"""Figures of evaluation.json that arms are compared by; the loss as it is weighed is none: its weights differ."""
SIZES = ("layers", "unique_parameters", "nominal_parameters", "disk_mb")
"""What tells how large an arm's student is: of evaluation.json, and the weights of its folder."""
STEP_TIME = "speed/seconds_per_step"
TASK = "task "


class Reading(NamedTuple):
    """What an arm's folder tells.

    Attributes:
        begun: whether a run was begun there; nothing else is told before.
        config: the run's.
        overrides: train's, as typed.
        curves: of `read_curves`.
        teacher_rows: of the teacher's cache: had (read), computed, seconds_reading, seconds_computing (None where not
            known); None without a cache.
        teacher_passes: of a pass shared in one process, the same.
        step, steps: reached, and aimed at where known.
        figures: HELD_OUT, and TASK + name for scores on tasks; empty unless the arm is done.
        text: what its evaluation read; None unless it is done.
        sizes: SIZES, as far as they are known, and step_seconds: the median of its training's steps; empty unless it is
            done.
    """

    begun: bool = False
    config: Mapping[str, Any] = {}
    overrides: Sequence[str] = ()
    curves: Mapping[str, Sequence[Sequence[float]]] = {}
    teacher_rows: Mapping[str, Any] | None = None
    teacher_passes: Mapping[str, Any] | None = None
    step: int | None = None
    steps: int | None = None
    figures: Mapping[str, float] = {}
    text: str | None = None
    sizes: Mapping[str, float] = {}


def read_arm(folder: Path, arm: Arm) -> Reading:
    """Reads an arm's run; one that another process is making or clearing just now counts as not begun.

    Args:
        folder: of the sweep.
        arm: of its ledger.
    """
    place = folder / arm.folder
    if not (place / CONFIG).is_file():
        return Reading()
    try:
        run, status, events = RunFolder(place, new=False, held=False), read_status(str(place)), read_events(place)
        done, curves = arm.status == "done", read_curves(place / METRICS)
        return Reading(
            True, run.config, run.overrides, curves,
            _had(events, "teacher_cache", "rows_read"), _had(events, "shared_pass", "passes_taken"),
            status["step"], status["steps"], _figures(run) if done else {}, held_out_text(run) if done else None,
            _sizes(run, curves) if done else {},
        )  # fmt: skip
    except FileNotFoundError:
        return Reading()


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """The plain value of a key of a run's configuration; None for a whole group and where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if isinstance(value, Mapping) else plain(value)


def plain(value: Any) -> Any:
    """A value that can be told from others and written: a list as its JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def _figures(run: RunFolder) -> dict[str, float]:
    student, scores = run.evaluation.get("student", {}), run.comparison.get("scores", {})
    found = {name: student.get(name) for name in HELD_OUT}
    found |= {f"{TASK}{name}": entry["mean"] for name, entry in scores.items()}
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _sizes(run: RunFolder, curves: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, float]:
    stored = stored_bytes(run.path / STUDENT)
    found = run.evaluation.get("student", {}) | ({"disk_mb": stored / 1e6} if stored else {})
    seconds = [value for _, value in curves.get(STEP_TIME, ())]
    time = {"step_seconds": statistics.median(seconds)} if seconds else {}
    return {name: found[name] for name in SIZES if name in found} | time


def _had(events: Sequence[Mapping[str, Any]], name: str, had: str) -> Mapping[str, Any] | None:
    """What a run had of its teacher without computing it, over all sessions that told."""
    told = [event for event in events if event["event"] == name]
    if not told:
        return None
    fields = {"had": had, "computed": had.partition("_")[0] + "_computed"}
    seconds = ["seconds_computing"] if name == "shared_pass" else ["seconds_computing", "seconds_reading"]
    fields |= {field: field for field in seconds}
    found: dict[str, Any] = {"seconds_reading": 0.0}
    for key, field in fields.items():
        values = [event.get(field) for event in told]
        found[key] = None if None in values else sum(values)
    return found
