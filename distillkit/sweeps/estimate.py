"""What a sweep will take, before anything of it is started: the verb sweep with --dry-run."""

from __future__ import annotations

import heapq
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.progress import activity, duration
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.definition import arm_words, settled
from distillkit.sweeps.jobs import Jobs
from distillkit.sweeps.launchers.local import threads_each

_SAME_COST = ("teacher", "student", "data", "masking", "trainer", "optimizer")
"""Parts of a configuration that decide what a step takes; the weights of the loss do not, as long as none is 0."""


class Cost(NamedTuple):
    """What an arm takes by itself: seconds, and those of them in which the teacher works while it trains."""

    seconds: float
    teacher: float


def estimate(folder: Path, ledger: Ledger, *, measure: bool) -> dict[str, Any]:
    """The arms of a sweep, and what each will take, measured on one arm of every model.

    Args:
        folder: of the sweep.
        ledger: planned.
        measure: train a few steps of one arm of every model; else seconds are None.

    Returns:
        Plain values: sweep_dir, arms (name, seed, status, process, folder, words, steps, seconds by itself), steps (of
        what is not done yet), seconds (until all of it is done), parallel (processes at once), processes (to start),
        trials (that a search will draw as it goes; 0 for a grid), share_cache.
    """
    known: dict[str, Cost] = {}
    cfgs = {arm.number: settled(ledger, arm, folder / arm.folder) for arm in ledger.arms}
    ahead = [(arm, cfgs[arm.number]) for arm in ledger.arms if arm.status not in ("done", "pruned")]
    parallel = ledger.launcher.get("jobs", 1)
    threads = threads_each(parallel) if ledger.launcher["_target_"].endswith(".LocalLauncher") else None
    costs = {arm.number: _cost(_with_threads(cfg, threads), arm, known) for arm, cfg in ahead} if measure else {}
    processes = list(_processes(Jobs(folder, ledger), ahead))
    numbers = {arm.number: number for number, arms in enumerate(processes) for arm in arms}
    search = ledger.sweep["method"] != "grid"
    return {
        "sweep_dir": str(folder),
        "arms": [
            _told(arm, folder / arm.folder, ledger) | {
                "steps": cfgs[arm.number]["trainer"]["max_steps"], "process": numbers.get(arm.number),
                "seconds": costs[arm.number].seconds if arm.number in costs else None,
            }
            for arm in ledger.arms
        ],
        "steps": sum(max(cfg["trainer"]["max_steps"], 0) for _, cfg in ahead),
        "seconds": _end([[costs[arm.number] for arm in arms] for arms in processes], parallel) if measure else None,
        "parallel": parallel,
        "processes": len(processes),
        "trials": ledger.sweep["trials"] - len(ledger.arms) if search else 0,
        "share_cache": ledger.sweep["share_cache"],
    }  # fmt: skip


def _told(arm: Arm, run: Path, ledger: Ledger) -> dict[str, Any]:
    """What an arm is, and the command that runs it."""
    return {"name": arm.name, "seed": arm.seed, "status": arm.status, "folder": str(run),
            "words": arm_words(ledger, arm, run)}  # fmt: skip


def _with_threads(cfg: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """The configuration with the threads that an arm will have, unless it names its own."""
    return cfg if cfg["run"]["threads"] or not threads else cfg | {"run": cfg["run"] | {"threads": threads}}


def _cost(cfg: dict[str, Any], arm: Arm, known: dict[str, Cost]) -> Cost:
    """Of the whole arm, as `info` expects; measured once for all arms whose steps are the same work."""
    from distillkit.inspection import inspect  # late: it brings torch

    terms = [name for name, term in cfg["loss"]["terms"].items() if term["weight"]]
    key = json.dumps([{part: cfg[part] for part in _SAME_COST}, terms], sort_keys=True)
    if key not in known:
        with activity(f"probing {arm.name}"):
            expected = inspect(cfg)["expected"]
        known[key] = Cost(0.0, 0.0)
        if not expected["out_of_memory"]:
            teacher = expected["train_seconds"] * expected["phases"]["teacher"] / expected["seconds_per_step"]
            known[key] = Cost(expected["train_seconds"] + expected["evaluation_seconds"], teacher)
    return known[key]


def _processes(jobs: Jobs, ahead: Sequence[tuple[Arm, Mapping[str, Any]]]) -> Iterator[list[Arm]]:
    """The arms of each process, in the order in which the sweep will start them."""
    waiting = list(ahead)
    while waiting:
        (arm, cfg), *others = waiting
        arms = [arm, *jobs.partners(cfg, others)]
        waiting = [(other, own) for other, own in others if other not in arms]
        yield arms


def _end(processes: Sequence[Sequence[Cost]], parallel: int) -> float:
    """Seconds until the last process has ended, each begun as soon as one of the slots is free.

    Arms of a process take turns; the one that trains longest computes the teacher's passes, the others take them.
    """
    free = [0.0] * parallel
    for costs in processes:
        teacher = [cost.teacher for cost in costs]
        heapq.heapreplace(free, free[0] + sum(cost.seconds for cost in costs) - sum(teacher) + max(teacher))
    return max(free)


def as_text(facts: dict[str, Any]) -> str:
    """`estimate`'s facts as lines a person reads."""
    lines = [f"{facts['sweep_dir']}: {len(facts['arms'])} arms, {_at_once(facts)}"]
    for arm in facts["arms"]:
        cost = "" if arm["seconds"] is None else f", about {duration(arm['seconds'])} by itself"
        lines.append(f"  {arm['name']}, seed {arm['seed']}: {arm['status']}, {arm['steps']} steps{cost}")
        lines.append(f"    distillkit train {shlex.join(arm['words'])}")
    time = "" if facts["seconds"] is None else f", about {duration(facts['seconds'])}, starts not counted"
    if time and facts["share_cache"]:
        time += "; at most: what arms will read from the shared cache is not known yet"
    lines.append(f"to do: {facts['steps']:,} optimizer steps{time}")
    if facts["trials"]:
        lines.append(f"to do: {facts['trials']} trials, which the search draws as it goes; none is counted above")
    return "\n".join(lines)


def _at_once(facts: dict[str, Any]) -> str:
    ahead = sum(arm["process"] is not None for arm in facts["arms"])
    if facts["processes"] == ahead:
        return f"{facts['parallel']} at once"
    return f"{ahead} in {facts['processes']} processes that share their teacher's pass, {facts['parallel']} at once"
