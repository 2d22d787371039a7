"""What a comparison found, gathered from its units into the plain values of results.json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit import __version__
from distillkit.comparison.disagreement import disagreements
from distillkit.comparison.models import Contender
from distillkit.comparison.ranking import average
from distillkit.comparison.tasks.base import Task
from distillkit.comparison.units import Unit, recipe_of
from distillkit.report.facts import BUSY, machine

Figures = dict[str, Any]


def gather(
    cfg: Mapping[str, Any],
    words: Sequence[str],
    models: Sequence[Contender],
    tasks: Mapping[str, Task],
    units: Sequence[Unit],
    place: Path,
    errors: Mapping[Unit, str],
    efficiency: Mapping[str, Figures],
) -> Figures:
    """The facts of a comparison.

    Args:
        cfg: compare.yaml's, settled.
        words: as typed; the page leaves secrets out.
        models, tasks, units: compared; a unit without a result counts as failed.
        place: the comparison's folder.
        errors: why units failed, as far as that was seen now.
        efficiency: name of a model -> `measure_efficiency`'s figures.

    Returns:
        version, date, machine, command, recipe, reference, models, tasks, scores, averages, failed, disagreements,
        measured, price_per_hour, currency, notes.
    """
    results = {unit: result for unit in units if (result := unit.result(place)) is not None}
    reference = reference_of(cfg["reference"], models)
    scores = {model.name: _scores(model.name, tasks, results) for model in models}
    averages = {name: _averages(own, tasks) for name, own in scores.items()}
    for own in scores.values():
        for task, entry in own.items():
            entry["retained"] = _share(entry["mean"], scores.get(reference or "", {}).get(task, {}).get("mean"))
    shown = _models(models, efficiency, averages, reference, cfg["price_per_hour"])
    return {
        "version": __version__, "date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine(),
        "command": ["compare", *words], "recipe": _recipe(cfg), "reference": reference, "models": shown,
        "tasks": {name: _task(cfg, name, task) for name, task in tasks.items()}, "scores": scores,
        "averages": averages, "failed": _failed(units, results, errors),
        "disagreements": disagreements(reference, models, tasks, results, place),
        "measured": _measured(efficiency), "price_per_hour": cfg["price_per_hour"], "currency": cfg["currency"],
        "notes": _notes(tasks, results, shown),
    }  # fmt: skip


def reference_of(chosen: str | None, models: Sequence[Contender]) -> str | None:
    """The name of the model that the others are measured against.

    Args:
        chosen: the user's, a name or as given in models; None: the teacher of the runs, else the first; of a single
            model none.
        models: compared.
    """
    if chosen is not None:
        return next((model.name for model in models if chosen in (model.name, model.given)), None)
    teachers = [model.name for model in models if model.role == "teacher"]
    return next(iter(teachers), models[0].name if len(models) > 1 else None)


# --- scores ------------------------------------------------------------------------------------------------------


def _scores(model: str, tasks: Mapping[str, Task], results: Mapping[Unit, Figures]) -> dict[str, Figures]:
    """Task -> figures over the seeds that have a result."""
    found = {}
    for task in tasks:
        own = [result for unit, result in results.items() if (unit.model, unit.task) == (model, task)]
        if own:
            parts = {
                part: {name: _spread([result["metrics"][part][name] for result in own]) for name in metrics}
                for part, metrics in own[0]["metrics"].items()
            }
            seeds = {str(result["seed"]): result["score"] for result in own}
            seconds = statistics.mean(result["seconds"] for result in own)
            memory = max(result["peak_memory_mb"] for result in own)
            found[task] = _spread(list(seeds.values())) | {
                "seeds": seeds, "seconds": seconds, "peak_memory_mb": memory, "metrics": parts,
            }  # fmt: skip
    return found


def _spread(values: Sequence[float]) -> Figures:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _averages(scores: Mapping[str, Figures], tasks: Mapping[str, Task]) -> Figures:
    """Over all tasks, and over those of GLUE; None where a task is missing."""
    glue = [name for name, task in tasks.items() if task.glue]
    everything, of_glue = average(scores, tasks), average(scores, glue)
    return {
        "all": everything and everything.mean,
        "glue": {"mean": of_glue and of_glue.mean, "tasks": len(glue)},
    }


def _share(value: float | None, of: float | None) -> float | None:
    """The share that is left of something positive."""
    return None if value is None or of is None or of <= 0 else value / of


# --- models and tasks --------------------------------------------------------------------------------------------


def _models(
    models: Sequence[Contender],
    efficiency: Mapping[str, Figures],
    averages: Mapping[str, Figures],
    reference: str | None,
    price: float | None,
) -> dict[str, Figures]:
    """Name -> what the model is, what it costs, and its score; beside the reference's."""
    shown = {model.name: _model(model, efficiency.get(model.name, {}), price) for model in models}
    for name, row in shown.items():
        row |= _relative(row, shown.get(reference or "")) | {"score": averages[name]["all"]}
        row["retained"] = _share(row["score"], averages.get(reference or "", {}).get("all"))
    return shown


def _model(model: Contender, cost: Figures, price: float | None) -> Figures:
    training = model.training and model.training | {
        "cost": None if price is None else model.training["seconds"] / 3600 * price
    }
    speed = cost.get("latency_ms", {})
    return {
        "role": model.role, "source": model.source, "made": model.made, **model.sizes,
        "disk_mb": cost["disk_bytes"] / 1e6 if cost else None,
        "latency_ms": speed.get("median"), "latency_p95_ms": speed.get("p95"), "latency_spread": speed.get("spread"),
        **{name: cost.get(name) for name in ("throughput", "flops_per_token", "peak_memory_mb")},
        "training": training,
    }  # fmt: skip


def _relative(row: Figures, reference: Figures | None) -> Figures:
    """How much faster and smaller than the reference."""
    pairs = {"speed_up": "latency_ms", "compression": "unique_parameters"}
    return {name: None if reference is None else _share(reference[key], row[key]) for name, key in pairs.items()}


def _task(cfg: Mapping[str, Any], name: str, task: Task) -> Figures:
    recipe = recipe_of(cfg, task)
    return {
        "kind": task.kind, "metrics": list(task.scored), "glue": task.glue,
        "data": task.source.describe() if task.source else "", "max_length": task.max_length,
        "parts": {part: len(rows) for part, rows in task.parts.items()}, "lr": recipe["optimizer"]["lr"],
        "batch_size": recipe["batch_size"] * recipe["trainer"]["accumulate_grad_batches"],
        **_duration(recipe["trainer"]),
    }  # fmt: skip


def _duration(trainer: Mapping[str, Any]) -> Figures:
    """How long a fine-tuning is: epochs, or steps where trainer.max_steps counts."""
    steps = trainer["max_steps"] if trainer["max_steps"] > 0 else None
    return {"epochs": trainer["max_epochs"] if steps is None else None, "steps": steps}


def _recipe(cfg: Mapping[str, Any]) -> Figures:
    optimizer, schedule, trainer = cfg["optimizer"], cfg["scheduler"], cfg["trainer"]
    return {
        **_duration(trainer), "batch_size": cfg["batch_size"] * trainer["accumulate_grad_batches"],
        "optimizer": optimizer["_target_"].rpartition(".")[2], "lr": optimizer["lr"],
        "weight_decay": optimizer.get("weight_decay"), "schedule": schedule.get("name"),
        "warmup_steps": schedule.get("warmup_steps"), "clip": trainer["gradient_clip_val"],
        "precision": str(trainer["precision"]), "seeds": cfg["seeds"],
    }  # fmt: skip


def _measured(efficiency: Mapping[str, Figures]) -> Figures:
    if not efficiency:
        return {}
    first = next(iter(efficiency.values()))
    return {key: first["latency_ms"][key] for key in ("length", "batch", "threads")} | {
        "throughput_batch": first["throughput_batch"]
    }


# --- what a reader must know -------------------------------------------------------------------------------------


def _failed(units: Sequence[Unit], results: Mapping[Unit, Figures], errors: Mapping[Unit, str]) -> list[Figures]:
    return [
        {"model": unit.model, "task": unit.task, "seed": unit.seed, "error": errors.get(unit, "not run")}
        for unit in units
        if unit not in results
    ]


def _notes(tasks: Mapping[str, Task], results: Mapping[Unit, Figures], models: Mapping[str, Figures]) -> list[str]:
    notes = []
    cut: dict[tuple[str, int], list[str]] = {}
    for unit, result in results.items():
        names = cut.setdefault((unit.model, result["max_length"]), [])
        if result["max_length"] < tasks[unit.task].max_length and result["full"] and unit.task not in names:
            names.append(unit.task)
    for (model, most), names in cut.items():
        if names:
            notes.append(f"{model} reads {most} tokens at most: longer texts of {', '.join(names)} are cut there.")
    for key, what in (("threads", "numbers of threads"), ("device", "kinds of device")):
        if len({result[key] for result in results.values()}) > 1:
            notes.append(f"The fine-tunings ran on different {what}: their times do not compare.")
    if any((model["latency_spread"] or 0) > BUSY for model in models.values()):
        notes.append("The machine was busy while latency was measured: its figures vary from one stretch to the next.")
    return notes
