"""A comparison as a walk: models, tasks, what is missing of the fine-tunings, efficiency, page, cards."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig

from distillkit.building import make
from distillkit.comparison.models import Contender, find_models
from distillkit.comparison.page import write_comparison
from distillkit.comparison.processes import run_units
from distillkit.comparison.results import gather
from distillkit.comparison.tasks.base import Task, naming
from distillkit.comparison.units import Unit, plan_units
from distillkit.errors import RunStateError, StorageError, TeacherError
from distillkit.evaluation.efficiency import measure_efficiency
from distillkit.locking import workplace
from distillkit.progress import activity, duration
from distillkit.publishing import rewrite_card
from distillkit.report.facts import BUSY, machine
from distillkit.rundir import CONFIG, RunFolder
from distillkit.storage import write_text

MODELS, EFFICIENCY, CONFIGURATION = "models", "efficiency.json", "comparison.yaml"
_STOPPED = "stopped; the fine-tunings that are done are kept, and the same command does the rest"


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
    place = Path(cfg["run"]["dir"])
    if (place / CONFIG).is_file():
        raise RunStateError(
            "holds a run, which a comparison would overwrite", key="run.dir", value=place, fix="choose another run.dir"
        )
    with workplace(place, begun=CONFIGURATION, stopped=_STOPPED):
        models = find_models(cfg["models"], place / MODELS, cfg["reference"])
        tasks = _tasks(cfg)
        units = plan_units(cfg, models, tasks)
        write_text(place / CONFIGURATION, yaml.safe_dump(cfg, sort_keys=False))
        errors = _run_missing(units, tasks, place, cfg["run"]["jobs"])
        efficiency = _efficiency(models, place)
        facts = gather(cfg, words, models, tasks, units, place, errors, efficiency)
        files = write_comparison(facts, place)
        for model in models:
            _write_card(model, facts)
        return facts | {"files": files}


def _tasks(cfg: Mapping[str, Any]) -> dict[str, Task]:
    """The tasks, their rows read and checked, so that nothing is fine-tuned before all of them fit."""
    tasks = {}
    for name, node in cfg["task"].items():
        with activity(f"reading {name}"), naming(name):
            task: Task = make(node)
            task.parts  # noqa: B018
            tasks[name] = task
    return tasks


def _run_missing(units: Sequence[Unit], tasks: Mapping[str, Task], place: Path, jobs: int) -> dict[Unit, str]:
    """Does the units without a result, says how each went, and returns why some failed."""
    missing = [unit for unit in units if unit.result(place) is None]
    errors, done = dict[Unit, str](), len(units) - len(missing)
    _say(f"{place}: {len(units)} fine-tunings" + (f", {done} of them done already" if done else ""))

    def on_end(unit: Unit, error: str | None) -> None:
        nonlocal done
        for same in (other for other in missing if other.key == unit.key):  # equal weights, rows and recipe
            done += 1
            result = None if error else same.result(place)
            if result is None:
                errors[same] = error or "ended without a result"
            said = f"failed: {errors[same]}" if result is None else _shown(result)
            _say(f"[{done}/{len(units)}] {same.task}, {same.model}, seed {same.seed}: {said}")

    to_do = []
    for unit in {unit.key: unit for unit in missing}.values():
        try:
            network = AutoConfig.from_pretrained(unit.source, trust_remote_code=False)
            tasks[unit.task].check_model(network, name=unit.model)
            to_do.append(unit)
        except TeacherError as error:
            on_end(unit, str(error))
    if to_do:
        run_units(to_do, place, jobs=jobs, threads=max(1, torch.get_num_threads() // jobs), on_end=on_end)
    return errors


def _shown(result: Mapping[str, Any]) -> str:
    """A unit's metrics on the first test set, and its time."""
    figures = ", ".join(f"{name} {value:.3f}" for name, value in next(iter(result["metrics"].values())).items())
    return f"{figures} ({duration(result['seconds'])})"


def _efficiency(models: Sequence[Contender], place: Path) -> dict[str, Any]:
    """The models' efficiency, all measured together: anew when a model or the machine is another, or was busy."""
    told = [[(model.name, model.identity) for model in models], machine()]
    key = json.loads(json.dumps(told))
    path = place / EFFICIENCY
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        stored = json.loads(path.read_text())
        calm = all(row["latency_ms"]["spread"] <= BUSY for row in stored["figures"].values())
        if stored["key"] == key and calm:
            return stored["figures"]
    figures = measure_efficiency({model.name: str(model.folder) for model in models}, under_load=True)
    write_text(path, json.dumps({"key": key, "figures": figures}, indent=1))
    return figures


def _write_card(model: Contender, facts: Mapping[str, Any]) -> None:
    """Keeps a run's own figures in its folder, beside those of other tasks, and puts them on its student's card."""
    scores, reference = facts["scores"], facts["reference"]
    if model.run is None or not scores[model.name]:
        return
    folder = RunFolder(model.run, new=False, held=False)
    earlier = folder.comparison if folder.comparison.get("weights") == model.weights else {}
    others = scores[reference] if reference not in (None, model.name) else {}
    tasks = {
        name: facts["tasks"][name] | {key: facts[key] for key in ("recipe", "date")} for name in scores[model.name]
    }
    before = earlier.get("reference_scores", {}) if earlier.get("reference") == reference else {}
    kept = {task: mean for task, mean in before.items() if task not in tasks}
    own = {
        "weights": model.weights, "date": facts["date"], "reference": reference if others else None,
        "reference_scores": kept | {task: entry["mean"] for task, entry in others.items() if task in tasks},
        "recipe": facts["recipe"], "tasks": earlier.get("tasks", {}) | tasks,
        "scores": earlier.get("scores", {}) | scores[model.name], "efficiency": facts["models"][model.name],
        "measured": facts["measured"],
    }  # fmt: skip
    try:
        folder.write_comparison(own)
        rewrite_card(model.run)
    except StorageError as error:
        _say(f"warning: the card of {model.name} does not get its figures: {error}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
