"""A comparison as a walk: models, tasks, what is missing of the fine-tunings, efficiency, page, cards."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from distillkit.building import make
from distillkit.comparison.models import Contender, find_models
from distillkit.comparison.page import write_comparison
from distillkit.comparison.processes import run_units
from distillkit.comparison.results import gather, reference_of
from distillkit.comparison.tasks.base import Task
from distillkit.comparison.units import Unit, plan_units
from distillkit.errors import ConfigError, DistillkitError, Preempted, StorageError
from distillkit.evaluation.efficiency import measure_efficiency
from distillkit.locking import FolderLock
from distillkit.progress import activity, duration
from distillkit.publishing import rewrite_card
from distillkit.report.facts import machine
from distillkit.rundir import CONFIG, RunFolder
from distillkit.storage import write_text

MODELS, EFFICIENCY = "models", "efficiency.json"


def compare(cfg: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Fine-tunes every model on every task with every seed, as far as that is missing, and writes the page.

    Args:
        cfg: compare.yaml's, settled and validated.
        words: as typed, for the record.

    Returns:
        The facts of results.json (`results.gather`), and under "files" the paths written; under "failed" the
        fine-tunings that failed, which did not keep the others from running.

    Raises:
        ConfigError, TeacherError, DataError: a model or a task cannot serve; nothing has been fine-tuned then.
        RunStateError: another process works in the folder.
        StorageError: it cannot be written.
        Preempted: SIGTERM; what is done is kept.
    """
    with _held(Path(cfg["run"]["dir"])) as place:
        models = find_models(cfg["models"], place / MODELS)
        if cfg["reference"] is not None and reference_of(cfg["reference"], models) is None:
            raise ConfigError(
                "not among the models",
                key="reference",
                value=cfg["reference"],
                allowed=", ".join(m.name for m in models),
            )
        tasks = _tasks(cfg)
        units = plan_units(cfg, models, tasks)
        write_text(place / CONFIG, yaml.safe_dump(cfg, sort_keys=False))
        errors = _run_missing(units, place, cfg["run"]["jobs"])
        efficiency = _efficiency(models, place)
        facts = gather(cfg, words, models, tasks, units, place, errors, efficiency)
        files = write_comparison(facts, place)
        for model in models:
            _write_card(model, facts)
        return facts | {"files": files}


@contextlib.contextmanager
def _held(place: Path) -> Iterator[Path]:
    """The comparison's folder, held by this process; SIGTERM raises Preempted."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
        lock = FolderLock(place)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", key="run.dir", value=place, fix="choose another run.dir"
        ) from error
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield place
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.release()


def _stop(number: int, frame: Any) -> None:
    raise Preempted("stopped; the fine-tunings that are done are kept, and the same command does the rest")


def _tasks(cfg: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks, their rows read and checked, so that nothing is fine-tuned before all of them fit."""
    tasks = {}
    for name, node in cfg["task"].items():
        with activity(f"reading {name}"):
            try:
                task: Task = make(node)
                task.parts  # noqa: B018
            except DistillkitError as error:  # a task does not know its name
                key = (error.key or "task.*").replace("task.*", f"task.{name}")
                raise type(error)(
                    error.problem, key=key, value=error.value, allowed=error.allowed, fix=error.fix
                ) from error
            tasks[name] = task
    return tasks


def _run_missing(units: Sequence[Unit], place: Path, jobs: int) -> dict[Unit, str]:
    """Does the units without a result, says how each went, and returns why some failed."""
    missing = [unit for unit in units if unit.result(place) is None]
    done = len(units) - len(missing)
    _say(f"{place}: {len(units)} fine-tunings" + (f", {done} of them done already" if done else ""))
    errors: dict[Unit, str] = {}

    def on_end(unit: Unit, error: str | None) -> None:
        nonlocal done
        done += 1
        head = f"[{done}/{len(units)}] {unit.task}, {unit.model}, seed {unit.seed}:"
        result = unit.result(place)
        if error is None and result is not None:
            figures = ", ".join(f"{name} {value:.3f}" for name, value in next(iter(result["metrics"].values())).items())
            _say(f"{head} {figures} ({duration(result['seconds'])})")
        else:
            errors[unit] = error or "ended without a result"
            _say(f"{head} failed: {errors[unit]}")

    if missing:
        run_units(missing, place, jobs=jobs, threads=max(1, torch.get_num_threads() // jobs), on_end=on_end)
    return errors


def _efficiency(models: Sequence[Contender], place: Path) -> dict[str, Any]:
    """The models' efficiency, all measured together: anew when one of them or the machine is another."""
    told = [[(model.name, model.identity) for model in models], machine()]
    key = json.loads(json.dumps(told))
    path = place / EFFICIENCY
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        stored = json.loads(path.read_text())
        if stored["key"] == key:
            return stored["figures"]
    figures = measure_efficiency({model.name: str(model.folder) for model in models}, under_load=True)
    write_text(path, json.dumps({"key": key, "figures": figures}, indent=1))
    return figures


def _write_card(model: Contender, facts: Mapping[str, Any]) -> None:
    """Keeps a run's own figures in its folder, and puts them on its student's card."""
    if model.run is None or model.name not in facts["scores"]:
        return
    scores, reference = facts["scores"], facts["reference"]
    others = scores.get(reference, {}) if reference != model.name else {}
    own = {
        "weights": model.weights, "date": facts["date"], "reference": reference if others else None,
        "reference_scores": {task: entry["mean"] for task, entry in others.items()}, "recipe": facts["recipe"],
        "tasks": facts["tasks"], "scores": scores[model.name], "efficiency": facts["models"][model.name],
        "measured": facts["measured"],
    }  # fmt: skip
    RunFolder(model.run, new=False, held=False).write_comparison(own)
    rewrite_card(model.run)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
