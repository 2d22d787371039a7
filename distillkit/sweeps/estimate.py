"""What a sweep will take, before anything of it is started: the verb sweep with --dry-run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from distillkit.progress import activity, duration
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.definition import arm_words, settled

_SAME_COST = ("teacher", "student", "data", "masking", "trainer", "optimizer")
"""Parts of a configuration that decide what a step takes; the weights of the loss do not, as long as none is 0."""


def estimate(folder: Path, ledger: Ledger, *, measure: bool) -> dict[str, Any]:
    """The arms of a sweep, and what each will take, measured on one arm of every model.

    Args:
        folder: of the sweep.
        ledger: planned.
        measure: train a few steps of one arm of every model; else seconds are None.

    Returns:
        Plain values: sweep_dir, arms (name, seed, status, folder, words, steps, seconds), steps and seconds (of what
        is not done yet, all slots taken), parallel (arms at once).
    """
    known: dict[str, float] = {}
    arms = []
    for arm in ledger.arms:
        cfg = settled(ledger, arm, folder / arm.folder)
        done = arm.status in ("done", "pruned")
        seconds = None if done or not measure else _seconds(cfg, arm, known)
        arms.append({
            "name": arm.name, "seed": arm.seed, "status": arm.status, "steps": cfg["trainer"]["max_steps"],
            "seconds": seconds, "folder": str(folder / arm.folder),
            "words": arm_words(ledger, arm, folder / arm.folder),
        })  # fmt: skip
    ahead = [arm for arm in arms if arm["status"] not in ("done", "pruned")]
    parallel = ledger.launcher.get("jobs", 1)
    return {
        "sweep_dir": str(folder),
        "arms": arms,
        "steps": sum(max(arm["steps"], 0) for arm in ahead),
        "seconds": sum(arm["seconds"] for arm in ahead) / parallel if measure else None,
        "parallel": parallel,
    }


def _seconds(cfg: dict[str, Any], arm: Arm, known: dict[str, float]) -> float:
    """Of the whole arm, as `info` expects; measured once for all arms whose steps are the same work."""
    from distillkit.inspection import inspect  # late: it brings torch

    terms = [name for name, term in cfg["loss"]["terms"].items() if term["weight"]]
    key = json.dumps([{part: cfg[part] for part in _SAME_COST}, terms], sort_keys=True)
    if key not in known:
        with activity(f"probing {arm.name}"):
            expected = inspect(cfg)["expected"]
        known[key] = 0.0 if expected["out_of_memory"] else expected["train_seconds"] + expected["evaluation_seconds"]
    return known[key]


def as_text(facts: dict[str, Any]) -> str:
    """`estimate`'s facts as lines a person reads."""
    lines = [f"{facts['sweep_dir']}: {len(facts['arms'])} arms, {facts['parallel']} at once"]
    for arm in facts["arms"]:
        cost = "" if arm["seconds"] is None else f", about {duration(arm['seconds'])}"
        lines.append(f"  {arm['name']}, seed {arm['seed']}: {arm['status']}, {arm['steps']} steps{cost}")
        lines.append(f"    distillkit train {shlex.join(arm['words'])}")
    time = "" if facts["seconds"] is None else f", about {duration(facts['seconds'])}"
    lines.append(f"to do: {facts['steps']:,} optimizer steps{time}")
    return "\n".join(lines)
