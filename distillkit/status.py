"""How a run is getting on, read from its folder alone: the verb status. Imports nothing heavy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from distillkit.errors import RunStateError
from distillkit.locking import holder
from distillkit.phases import NAMES, shares
from distillkit.progress import duration
from distillkit.rundir import BEGINNINGS, CONFIG, ERRORS, METRICS, read_events, read_metrics


def read_status(folder: str) -> dict[str, Any]:
    """What a run's folder tells, at any time and without disturbing the run.

    Args:
        folder: a run's.

    Returns:
        Plain values: run_dir, state ("running", "finished", "failed" or "stopped"), pid, step, steps (of the whole
        run), seconds_left (estimated, while running), checkpoint (newest saved step), train, speed and held_out (newest
        figures by name), error (the last failure's line), updated (Unix seconds of the newest entry). None where
        there is nothing to tell.

    Raises:
        RunStateError: not a run's folder.
    """
    path = Path(folder)
    if not (path / CONFIG).is_file():
        raise RunStateError("not a run's folder", key="RUN_DIR", value=folder, fix="name a folder made by train")
    pid, events = holder(path), read_events(path)
    began = next((event for event in reversed(events) if event["event"] in BEGINNINGS), {"step": 0, "time": 0})
    rows, written = _rows(path / METRICS, began)
    saved = [event["step"] for event in events if event["event"] == "checkpoint"]
    step = max([began["step"], *saved[-1:], *(int(row["step"]) for row in rows[-1:])])
    updated = max([*(event["time"] for event in events[-1:]), *([written] if rows else [])], default=None)
    state = _state(path, events, pid)
    steps = began.get("steps")
    return {
        "run_dir": folder,
        "state": state,
        "pid": pid,
        "step": step,
        "steps": steps,
        "seconds_left": _seconds_left(began, step, steps, updated) if state == "running" else None,
        "checkpoint": saved[-1] if saved else None,
        "train": _newest(rows, ("train/", "lr")),
        "speed": _newest(rows, ("speed/",)),
        "held_out": _newest(rows, ("valid/",)),
        "error": _last_line(path / ERRORS) if state == "failed" else None,
        "updated": updated,
    }


def _rows(metrics: Path, began: dict[str, Any]) -> tuple[list[dict[str, str]], float]:
    """The rows of this session and those it goes on from; when the table was written (Unix seconds)."""
    rows = read_metrics(metrics)
    written = metrics.stat().st_mtime if rows else 0.0
    if written < began["time"]:  # rows beyond the checkpoint stay until a resumed run writes its first
        rows = [row for row in rows if int(row["step"]) <= began["step"]]
    return rows, written


def _state(path: Path, events: list[dict[str, Any]], pid: int | None) -> str:
    if events and events[-1]["event"] == "finish":
        return "finished"
    if pid is not None:
        return "running"
    return "failed" if (path / ERRORS).exists() else "stopped"


def _seconds_left(began: dict[str, Any], step: int, steps: int | None, updated: float | None) -> float | None:
    done = step - began["step"]
    if not steps or not updated or done <= 0:
        return None
    return max(0.0, (updated - began["time"]) / done * (steps - step) - (time.time() - updated))


def _newest(rows: list[dict[str, str]], prefixes: tuple[str, ...]) -> dict[str, float]:
    """The newest value of each figure whose name starts with one of the prefixes, which are left out of the names."""
    found: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
            if prefix is not None:
                found[name.removeprefix(prefix) if prefix.endswith("/") else name] = float(value)
    return found


def _last_line(path: Path) -> str:
    lines = path.read_text().strip().splitlines()
    return lines[-1] if lines else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _pace(speed: dict[str, float]) -> str:
    """Such as "12,345 tokens/s, 41% of the roof, 0.33 s a step: student backward 41%, teacher 20%"."""
    roof = f", {speed['mfu']:.0%} of the roof" if "mfu" in speed else ""
    phases = shares({name: speed.get(f"{name}_seconds", 0.0) for name in NAMES})
    return f"{_number(speed['tokens_per_second'])} tokens/s{roof}, {speed['seconds_per_step']:.3g} s a step: {phases}"


def as_text(status: dict[str, Any]) -> str:
    """`read_status`'s facts as lines a person reads."""
    of = f" of {status['steps']:,}" if status["steps"] else ""
    pid = f" (process {status['pid']})" if status["pid"] else ""
    left = f", about {duration(status['seconds_left'])} left" if status["seconds_left"] is not None else ""
    lines = [f"{status['run_dir']}: {status['state']}{pid}, step {status['step']:,}{of}{left}"]
    for name in ("train", "held_out"):
        if status[name]:
            figures = "  ".join(f"{key} {_number(value)}" for key, value in status[name].items())
            lines.append(f"  {name.replace('_', '-')}: {figures}")
    if status["speed"]:
        lines.append(f"  speed: {_pace(status['speed'])}")
    if status["checkpoint"] is not None:
        lines.append(f"  newest checkpoint: step {status['checkpoint']:,}")
    if status["error"]:
        lines.append(f"  {status['error']}")
    if status["state"] in ("failed", "stopped"):
        lines.append(f"  continue with: distillkit resume {status['run_dir']}")
    return "\n".join(lines)
