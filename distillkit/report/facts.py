"""All facts of a report: the runs, their models side by side, what those cost, and what they say."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from distillkit import __version__
from distillkit.data.masking import Shares
from distillkit.errors import DistillkitError
from distillkit.evaluation.efficiency import measure_efficiency
from distillkit.evaluation.examples import fill_masks
from distillkit.evaluation.summary import describe_model
from distillkit.progress import activity
from distillkit.report.history import read_run
from distillkit.rundir import STUDENT, RunFolder
from distillkit.teachers import load_model, load_tokenizer

BUSY = 0.2
"""Spread of the latency, as a share of the median, from which the page says that the machine was busy."""
_SIZES = (
    "class", "layers", "hidden_size", "unique_parameters", "nominal_parameters", "stored_parameters", "shared_part",
)  # fmt: skip
_COST = ("disk_mb", "latency_ms", "latency_p95_ms", "latency_spread", "peak_memory_mb")
_HELD_OUT = ("mlm_loss", "perplexity", "top1", "agreement", "kl", "sop_accuracy")


class _Teacher(NamedTuple):
    """A teacher on one held-out text."""

    path: str
    text: str


def gather(folders: Sequence[RunFolder]) -> dict[str, Any]:
    """The facts of runs, as plain values that JSON holds.

    Args:
        folders: of runs, finished or not, each once.

    Returns:
        version, date, machine, models (name -> figures; teachers first), runs (name -> `read_run`, and the names of
        its teacher), measured (how cost was), examples (as `fill_masks`), notes (what a reader must know).
    """
    # a run called teacher must not be taken for the teacher
    short = short_names([folder.path.resolve() for folder in folders])
    names = [f"{name} (run)" if name.split()[:1] == ["teacher"] else name for name in short]
    teachers = _teachers(folders)
    runs, models, notes = {}, dict[str, dict[str, Any]](), list[str]()
    paths = {name: key.path for key, name in teachers.items()}
    models |= {name: _teacher_figures(key, folders) for key, name in teachers.items()}
    for name, folder in zip(names, folders, strict=True):
        teacher = teachers.get(_teacher_of(folder)) or _common_teacher(folder, teachers)
        own = folder.config["teacher"]["path"] is not None
        runs[name] = read_run(folder) | {"teacher": teacher if own else None}
        models[name] = _student_figures(folder) | {"of_teacher": None}
        reference = models[teacher]["top1"] if teacher else None
        if reference and models[name]["top1"] is not None:
            models[name]["of_teacher"] = models[name]["top1"] / reference
        paths[name] = str(folder.path / STUDENT)
        notes += _state_notes(name, runs[name], own, (folder.path / STUDENT).is_dir())
    notes += _comparison_notes(folders, models)
    measured, examples = _measure(models, paths, notes)
    notes += _storage_notes(models)
    return finite({
        "version": __version__, "date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine(), "models": models,
        "runs": runs, "measured": measured, "examples": examples, "notes": notes,
    })  # fmt: skip


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many parts before it as it takes to tell it from the others."""
    names = [path.name or str(path) for path in paths]
    for length in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        names = [
            str(Path(*path.parts[-length:])) if names.count(name) > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return names


def machine() -> dict[str, Any]:
    """What the figures were measured on: cpu, cpus, threads, system, and the versions of what computes."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


# --- models ------------------------------------------------------------------------------------------------------


def held_out_text(folder: RunFolder) -> str:
    """What a run's evaluation read: runs with an equal line were measured on the same rows under the same masks."""
    config = folder.config
    limit, data, masking = config["run"]["evaluation_batches"], config["data"], config["masking"]
    shares = Shares(**{name: masking[name] for name in Shares._fields if name in masking})
    cut = None if limit is None else [limit, data["batch_size"], data["batch_tokens"]]
    return json.dumps([folder.facts["corpus"], shares, cut], sort_keys=True)


def _teacher_of(folder: RunFolder) -> _Teacher:
    return _Teacher(str(folder.config["teacher"]["path"]), held_out_text(folder))


def _teachers(folders: Sequence[RunFolder]) -> dict[_Teacher, str]:
    """The teachers of the runs and their names: "teacher", or with what tells several apart."""
    keys = list(dict.fromkeys(_teacher_of(folder) for folder in folders if folder.config["teacher"]["path"]))
    if len(keys) == 1:
        return {keys[0]: "teacher"}
    paths = list(dict.fromkeys(key.path for key in keys))
    short = dict(zip(paths, short_names([Path(path) for path in paths]), strict=True))
    names: dict[_Teacher, str] = {}
    for key in keys:
        texts = [other.text for other in keys if other.path == key.path]
        names[key] = f"teacher {short[key.path]}" + (f", text {texts.index(key.text) + 1}" if len(texts) > 1 else "")
    return names


def _common_teacher(folder: RunFolder, teachers: Mapping[_Teacher, str]) -> str | None:
    """For a run without a teacher: the one that was measured on its held-out text, if there is exactly one."""
    fitting = [name for key, name in teachers.items() if key.text == held_out_text(folder)]
    return fitting[0] if len(fitting) == 1 else None


def _teacher_figures(key: _Teacher, folders: Sequence[RunFolder]) -> dict[str, Any]:
    found = (folder.evaluation.get("teacher") for folder in folders if _teacher_of(folder) == key)
    return {"role": "teacher", "of_teacher": None} | _figures(next(filter(None, found), {}))


def _student_figures(folder: RunFolder) -> dict[str, Any]:
    return {"role": "student"} | _figures(folder.facts["student"] | folder.evaluation.get("student", {}))


def _figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in (*_SIZES, *_COST, *_HELD_OUT)}


def _measure(
    models: dict[str, dict[str, Any]], paths: Mapping[str, str], notes: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Adds cost to the models that load, and a note for each that does not; returns how it was measured, examples."""
    there = {n: path for n, path in paths.items() if models[n]["role"] == "teacher" or Path(path).is_dir()}
    usable = _loading(there, "size, latency, memory and examples", partial(_add_sizes, models), notes)
    measured: dict[str, Any] = {}
    for name, cost in (measure_efficiency(usable) if usable else {}).items():
        speed = cost["latency_ms"]
        measured = {key: speed[key] for key in ("length", "batch", "threads")}
        models[name] |= {
            "disk_mb": cost["disk_bytes"] / 1e6,
            "latency_ms": speed["median"],
            "latency_p95_ms": speed["p95"],
            "latency_spread": speed["spread"],
            "peak_memory_mb": cost["peak_memory_mb"],
        }
        if cost["peak_memory_mb"] is None:
            notes.append(f"{name}: peak memory is missing: its process failed: {cost['memory_failure']}.")
    if usable and max(models[name]["latency_spread"] for name in usable) > BUSY:
        notes.append("The machine was busy while latency was measured: its figures vary from one stretch to the next.")
    speaking = _loading(usable, "examples", lambda name, path: load_tokenizer(path), notes)
    with activity("filling masks"):
        return measured, fill_masks(speaking) if speaking else []


def _loading(
    paths: Mapping[str, str], missing: str, load: Callable[[str, str], Any], notes: list[str]
) -> dict[str, str]:
    """Those of the paths that load(name, path) does not refuse; a note of what is `missing` for each other."""
    found = {}
    for name, path in paths.items():
        try:
            with activity(f"loading {name}"):
                load(name, path)
            found[name] = path
        except DistillkitError as error:
            notes.append(f"{name}: {missing} are missing: {error.problem} ({path}).")
    return found


def _add_sizes(models: Mapping[str, dict[str, Any]], name: str, path: str) -> None:
    sizes = describe_model(load_model(path))
    models[name].update({size: sizes[size] for size in _SIZES})


# --- what a reader must know -------------------------------------------------------------------------------------


def _state_notes(name: str, run: Mapping[str, Any], taught: bool, exported: bool) -> list[str]:
    notes = []
    if run["state"] != "finished":
        aim = f" of {run['steps']}" if run["steps"] else ""
        state = f"{name} has not finished: {run['state']}, step {run['step']}{aim}."
        if run["error"]:
            state += f" Its last error: {run['error']}"
        if run["evaluated_step"] is None:
            notes.append(f"{state} It has no held-out figures yet beyond the curves.")
        else:
            notes.append(f"{state} Its figures are those of step {run['evaluated_step']}, before it was continued.")
    if not exported:
        notes.append(f"{name} has no {STUDENT}/ folder: size on disk, latency, memory and examples are left out.")
    if not taught:
        notes.append(f"{name} was trained without a teacher, so its agreement and KL were not measured.")
    return notes


def _comparison_notes(folders: Sequence[RunFolder], models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    notes = []
    if len({held_out_text(folder) for folder in folders if folder.evaluation}) > 1:
        notes.append("The runs were measured on different held-out texts or masks: their figures do not compare.")
    shared = [n for n, m in models.items() if (m["nominal_parameters"] or 0) > (m["unique_parameters"] or 0)]
    if shared:
        computes = "compute" if len(shared) > 1 else "computes"
        notes.append(
            f"Sharing layers saves parameters, not operations: {', '.join(shared)} {computes} as much as the nominal"
            " parameters say."
        )
    return notes


def _storage_notes(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Students whose folder is larger than what they share makes them."""
    return [
        f"{name} is stored unshared: its layers share their {model['shared_part']}, and the folder holds a copy for"
        f" each, {model['disk_mb']:,.1f} MB where its unique parameters would take"
        f" {model['disk_mb'] * model['unique_parameters'] / model['stored_parameters']:,.1f} MB."
        for name, model in models.items()
        if model["shared_part"] and model["disk_mb"] is not None
    ]


def finite(value: Any) -> Any:
    """The values with None in place of numbers that JSON cannot hold (inf, nan)."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
