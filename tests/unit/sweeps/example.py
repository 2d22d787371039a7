"""Sweeps made by hand: a ledger, and arms' folders as train leaves them, with figures that tests choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from distillkit.sweeps.arms import Arm, Ledger, Status

CONFIG: dict[str, Any] = {
    "loss": {"alpha": 5.0, "beta": 2.0, "gamma": 1.0},
    "student": {"num_layers": 2, "init": "teacher"},
    "masking": {"probability": 0.15},
    "data": {"batch_size": 4, "batch_tokens": None},
    "run": {"evaluation_batches": None},
}


def figures(mlm_loss: float) -> dict[str, float]:
    """Of an evaluation: KL a tenth of the loss, agreement falling with it."""
    return {"mlm_loss": mlm_loss, "kl": mlm_loss / 10, "agreement": 1 - mlm_loss / 10, "top1": 0.25}


def ledger(*arms: Arm, name: str = "grid", baseline: str | None = None, **sweep: Any) -> Ledger:
    """A sweep of these arms, numbered in their order."""
    for number, arm in enumerate(arms):
        arm.number = number
    node = {"method": "grid", "vary": {}, "seeds": [0, 1, 2], "metric": "valid/mlm_loss"} | sweep
    launcher = {"_target_": "distillkit.sweeps.launchers.local.LocalLauncher", "jobs": 1}
    return Ledger(name, ["experiment=demo"], None, node, launcher, baseline, ["distillkit", "sweep"], list(arms))


def arm(name: str, seed: int = 0, *words: str, status: Status = "done", **fields: Any) -> Arm:
    """An arm; its number comes with the ledger."""
    return Arm(0, name, seed, list(words), status=status, **fields)


def write_run(
    sweep: Path,
    arm: Arm,
    mlm_loss: float | None = None,
    *,
    corpus: str = "abc",
    changes: Mapping[str, Any] | None = None,
    curve: Sequence[float] = (),
    rows: tuple[int, int] | None = None,
    scores: Mapping[str, float] | None = None,
) -> Path:
    """Writes an arm's folder as train would.

    Args:
        sweep: folder.
        arm: numbered.
        mlm_loss: of evaluation.json, with others as `figures`; None while there is none.
        corpus: identity of its text.
        changes: to CONFIG, by dotted key.
        curve: held-out losses, of step 10, 20, ...
        rows: read from the teacher's cache and computed.
        scores: of comparison.json, by task.
    """
    folder, config = sweep / arm.folder, json.loads(json.dumps(CONFIG))
    folder.mkdir(parents=True)
    for key, value in (changes or {}).items():
        group, _, name = key.partition(".")
        config[group][name] = value
    events = [{"time": 1.0, "event": "start", "step": 0, "steps": 40}]
    if rows is not None:
        seconds = {"seconds_reading": 0.01 * rows[0], "seconds_computing": 0.1 * rows[1]}
        events.append({"time": 2.0, "event": "teacher_cache", "rows_read": rows[0], "rows_computed": rows[1]} | seconds)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    lines = [f"{10 * (place + 1)},{value!r}\n" for place, value in enumerate(curve)]
    (folder / "metrics.csv").write_text("step,valid/mlm_loss\n" + "".join(lines))
    (folder / "run.json").write_text(json.dumps({"corpus": corpus}))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["experiment=demo", *arm.words, f"run.dir={folder}"]))
    if mlm_loss is not None:
        (folder / "evaluation.json").write_text(json.dumps({"student": figures(mlm_loss)}))
    if scores:
        means = {task: {"mean": mean} for task, mean in scores.items()}
        (folder / "comparison.json").write_text(json.dumps({"scores": means}))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder
