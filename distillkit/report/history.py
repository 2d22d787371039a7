"""What one run's folder tells: how far it is, what it cost, its curves, and where its layers came from."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillkit.phases import NAMES, advise
from distillkit.redaction import last_name, shown_commands
from distillkit.rundir import BEGINNINGS, METRICS, RunFolder, read_events, read_metrics
from distillkit.status import read_status

POINTS = 400
"""Most points of a curve: more cannot be told apart in a figure."""
_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def read_run(folder: RunFolder) -> dict[str, Any]:
    """The facts of a run that need no model.

    Args:
        folder: of a run, finished or not.

    Returns:
        Plain values: folder, version, threads, commands (repeat the run), state, step, steps and error (as of
        `read_status`), evaluated_step, sessions, seconds, training (`training_cost`), tokens, tokens_per_second (None
        where unknown), speed (`read_speed`), weights (of the loss, by term), temperature (None without one), layers
        (`read_layers`), curves (`read_curves`).
    """
    config, facts, events = folder.config, folder.facts, read_events(folder.path)
    curves = read_curves(folder.path / METRICS)
    status = read_status(str(folder.path))
    per_step, speed = facts.get("tokens_per_step"), read_speed(folder.path / METRICS, config)
    weights = {name: term["weight"] for name, term in config["loss"]["terms"].items()}
    return {
        "folder": str(folder.path),
        "version": facts["version"],
        "threads": facts["threads"],
        "commands": shown_commands(folder.commands, paths=True),
        **{name: status[name] for name in ("state", "step", "steps", "error")},
        "evaluated_step": max((event["step"] for event in events if event["event"] == "finish"), default=None),
        "sessions": sum(event["event"] in BEGINNINGS for event in events),
        "seconds": time_spent(events),
        "training": training_cost(events),
        "tokens": None if per_step is None else round(per_step * status["step"]),
        "tokens_per_second": speed["tokens_per_second"],
        "speed": speed,
        "weights": weights,
        "temperature": config["loss"].get("temperature") if weights.get("ce") else None,
        "layers": read_layers(facts, config["student"].get("init_from")),
        "curves": curves,
    }


def read_speed(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """How fast a run trained, and what of a step took how long.

    The first logging window is left out where there are more: in it the processes warm up.

    Args:
        path: metrics.csv; need not exist.
        config: the run's.

    Returns:
        tokens_per_second, flops_per_second and mfu: medians of the windows; phases: seconds of a step by phase, the
        mean of the windows, as now and then one holds a checkpoint; advice: what to change. None where unknown.
    """
    rows = [row for row in read_metrics(path) if "speed/tokens_per_second" in row]
    windows = [{name: float(value) for name, value in row.items()} for row in rows[1:] or rows]
    found: dict[str, Any] = {"phases": None, "advice": None}
    for name in ("tokens_per_second", "flops_per_second", "mfu"):
        values = [window[f"speed/{name}"] for window in windows if f"speed/{name}" in window]
        found[name] = statistics.median(values) if values else None
    if windows:
        found["phases"] = {n: statistics.fmean(w.get(f"speed/{n}_seconds", 0.0) for w in windows) for n in NAMES}
        found["advice"] = advise(found["phases"], config)
    return found


def time_spent(events: Iterable[dict[str, Any]]) -> float:
    """Seconds over the sessions of a run, each from its start or resume to its last event; pauses do not count.

    Args:
        events: in order, as in events.jsonl.
    """
    seconds, last = 0.0, math.inf
    for event in events:
        if event["event"] not in BEGINNINGS:
            seconds += max(0.0, event["time"] - last)
        last = event["time"]
    return seconds


def training_cost(events: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """What training took over all sessions of a run, without the pauses and what follows the last checkpoint.

    Args:
        events: in order, as in events.jsonl.

    Returns:
        seconds (of each session from its start or resume to its last checkpoint; work that was lost after it does not
        count), peak_memory_mb and peak_gpu_memory_mb (of the session that took most, in MB of 10^6 bytes; None where
        no checkpoint tells: runs of older versions, or no GPU).
    """
    saved = [event for event in events if event["event"] == "checkpoint"]
    peaks = {
        name: max((event[name] for event in saved if name in event), default=None)
        for name in ("peak_memory_mb", "peak_gpu_memory_mb")
    }
    return {"seconds": time_spent(event for event in events if event["event"] in (*BEGINNINGS, "checkpoint")), **peaks}


def read_curves(path: Path) -> dict[str, list[list[float]]]:
    """The curves of a metrics table.

    Args:
        path: metrics.csv; need not exist.

    Returns:
        name -> [[step, value], ...] of at most POINTS points, with the first and the last; values that are not finite
        are left out.
    """
    curves: dict[str, list[list[float]]] = {}
    for row in read_metrics(path):
        for name, text in row.items():
            if name != "step" and math.isfinite(value := float(text)):
                curves.setdefault(name, []).append([int(row["step"]), value])
    return {name: thinned(curve) for name, curve in curves.items()}


def thinned(curve: list[list[float]]) -> list[list[float]]:
    """At most POINTS of a curve's points, evenly spaced by number, the first and the last among them."""
    if len(curve) <= POINTS:
        return curve
    return [curve[number] for number in np.linspace(0, len(curve) - 1, POINTS).round().astype(int)]


def read_layers(facts: dict[str, Any], init_from: str | None) -> dict[str, Any]:
    """Which source layer went into which student layer.

    Args:
        facts: run.json.
        init_from: the source where it is not the teacher.

    Returns:
        source (its name), source_layers (how many it has), blocks: [{"layers": student layers that share these
        weights, "origins": source layers they were made from}], shared: the part that all blocks have in common, if one
        ("attention" or "ffn") -> the source layers it was made from. No blocks when no layer was taken over.
    """
    transfer, student = facts["transfer"], facts["student"]
    pairs = sorted((int(layer), origins) for layer, origins in transfer["layer_map"].items())
    parts = transfer.get("shared_map", {})
    whole = student["nominal_parameters"] > student["unique_parameters"] and not parts
    blocks: list[dict[str, list[int]]] = []
    for layer, origins in pairs:
        if whole and blocks and blocks[-1]["origins"] == origins:
            blocks[-1]["layers"].append(layer)
        else:
            blocks.append({"layers": [layer], "origins": origins})
    numbers = [int(found.group(1)) for name in transfer["source"] if (found := _LAYER.search(name))]
    numbers += [origin for _, origins in pairs for origin in origins]
    source = "teacher" if init_from is None else last_name(init_from)
    return {"source": source, "source_layers": max(numbers, default=-1) + 1, "blocks": blocks, "shared": parts}
