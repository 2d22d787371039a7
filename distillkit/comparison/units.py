"""The units of a comparison: one model fine-tuned on one task with one seed, and what each leaves in its folder."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerFast

from distillkit import config
from distillkit.building import make
from distillkit.comparison.finetuning import FineTuning, lengths_of, load_with_head, predict, train
from distillkit.comparison.models import Contender
from distillkit.comparison.tasks.base import TRAIN, Task
from distillkit.data.splitting import quiet
from distillkit.encoding import longest_row
from distillkit.errors import RunStateError
from distillkit.hashing import weights_hash
from distillkit.machine import memory_used
from distillkit.storage import write_text
from distillkit.teachers import load_tokenizer

UNITS = "units"
RESULT, ANSWERS, LOG = "result.json", "answers.json", "log.txt"
FORMAT = 1
"""Of units' figures; a higher one makes every unit anew."""

_TRAINER_KEYS = (
    "max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "precision",
)  # fmt: skip


@dataclass(frozen=True, eq=False)  # its mappings have no hash; a unit is itself
class Unit:
    """One fine-tuning and its judgement; plain values, so that another process can take it.

    Attributes:
        model: the contender's name.
        task: the task's name.
        seed: >= 0.
        source: the model's folder.
        node: of the task, to be made.
        recipe: optimizer, scheduler, trainer (nodes) and batch_size, with the task's own values put in.
        key: identifies what the figures depend on: weights, rows, recipe, seed.
        weights: sha256 of the model's weights when the unit was planned.
    """

    model: str
    task: str
    seed: int
    source: Path
    node: dict[str, Any]
    recipe: dict[str, Any]
    key: str
    weights: str

    def folder(self, place: Path) -> Path:
        """Its folder among a comparison's units; one made under another name of the model counts as well."""
        name = f"{self.task}_{self.model.replace('/', '_')}_seed{self.seed}_{self.key}"
        return next((place / UNITS).glob(f"*_{self.key}"), place / UNITS / name)

    def result(self, place: Path) -> dict[str, Any] | None:
        """Its figures, as `run_unit` wrote them; None while it is missing."""
        path = self.folder(place) / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def answers(self, place: Path) -> list[Any]:
        """Its answers to the rows of the first test set; only of a unit that is done."""
        return json.loads((self.folder(place) / ANSWERS).read_text())


def plan_units(cfg: Mapping[str, Any], models: Iterable[Contender], tasks: Mapping[str, Task]) -> list[Unit]:
    """Every unit of a comparison: all models and tasks with the first seed, then with the next.

    Args:
        cfg: compare.yaml's, settled.
        models: of `find_models`.
        tasks: name -> task, made from cfg["task"].
    """
    return [
        _unit(cfg, model, name, task, seed) for seed in cfg["seeds"] for name, task in tasks.items() for model in models
    ]


def recipe_of(cfg: Mapping[str, Any], task: Task) -> dict[str, Any]:
    """The recipe of a task: the comparison's, with the values that the task sets for every model.

    Returns:
        optimizer, scheduler and trainer (nodes), batch_size.
    """
    optimizer, trainer = dict(cfg["optimizer"]), dict(cfg["trainer"])
    if task.lr is not None:
        optimizer["lr"] = task.lr
    if task.epochs is not None:
        trainer |= {"max_epochs": task.epochs, "max_steps": -1}
    batch_size = task.batch_size or cfg["batch_size"]
    return {"optimizer": optimizer, "scheduler": cfg["scheduler"], "trainer": trainer, "batch_size": batch_size}


def _unit(cfg: Mapping[str, Any], model: Contender, name: str, task: Task, seed: int) -> Unit:
    node, recipe = cfg["task"][name], recipe_of(cfg, task)
    # where the rows lie does not matter, what they are does
    reading = {key: value for key, value in node.items() if key not in ("files", "source")}
    decisive = recipe | {"trainer": _decisive(recipe["trainer"])}
    told = json.dumps([FORMAT, model.identity, reading, task.fingerprint(), decisive, seed], sort_keys=True)
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    return Unit(model.name, name, seed, model.folder, node, recipe, key, model.weights)


def _decisive(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a trainer that its recipe is made of, and others only as far as the user has changed them."""
    defaults = config.options("trainer/default", [])
    changed = {key: value for key, value in trainer.items() if key not in defaults or value != defaults[key]}
    harmless = ("log_every_n_steps", "profiler", "enable_progress_bar", "enable_model_summary")
    return {key: trainer[key] for key in _TRAINER_KEYS} | {k: v for k, v in changed.items() if k not in harmless}


def run_unit(unit: Unit, folder: Path, on_step: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Fine-tunes, judges, and writes ANSWERS, then RESULT, which makes the unit done.

    Args:
        unit: what to do.
        folder: the unit's, exists.
        on_step: called with (steps done, all steps).

    Raises:
        RunStateError: the model's weights are no longer those that the unit was planned for.
        DistillkitError: the model or the task cannot serve.

    RESULT holds model, task, seed, metrics ({part: {metric: value}}), score (their mean), steps, seconds (of the
    fine-tuning alone), max_length, full (share of the features that are as long), threads, device, `memory_used`.
    """
    if weights_hash(unit.source) != unit.weights:
        raise RunStateError("its weights have changed since the comparison began", key="models", value=unit.model,
                            fix="compare again")  # fmt: skip
    task: Task = make(unit.node)
    model = load_with_head(task, unit.source, unit.seed)
    tokenizer = load_tokenizer(str(unit.source), key="models")
    features = _encode(task, tokenizer, longest_row(model))
    recipe, collate = unit.recipe, task.collator(tokenizer)
    # it stores nothing: what lasts of a fine-tuning is its answers
    silent: dict[str, Any] = {"logger": False, "callbacks": [], "limit_val_batches": 0}
    trainer = make(recipe["trainer"], **silent, default_root_dir=str(folder))
    optimizer, scheduler = make(recipe["optimizer"]), make(recipe["scheduler"])
    module = FineTuning(model, optimizer=optimizer, scheduler=scheduler, on_step=on_step)
    began = time.perf_counter()
    train(module, trainer, features.pop(TRAIN), collate, batch_size=recipe["batch_size"], seed=unit.seed)
    figures = {"steps": trainer.global_step, "seconds": time.perf_counter() - began, "max_length": task.max_length}
    figures["full"] = max(map(_full, features.values(), repeat(task.max_length)))
    device, mixed = trainer.strategy.root_device, str(recipe["trainer"]["precision"]) in ("bf16-mixed", "bf16")
    how: dict[str, Any] = {"batch_size": recipe["batch_size"], "per_token": task.per_token}
    outputs = {
        part: predict(model, rows, collate, **how, device=device, autocast=mixed) for part, rows in features.items()
    }
    figures |= {"threads": torch.get_num_threads(), "device": device.type, **memory_used(device)}
    answers = {part: task.answers(outputs[part], rows, task.parts[part]) for part, rows in features.items()}
    _write(unit, folder, task, answers, figures)


def _encode(task: Task, tokenizer: PreTrainedTokenizerFast, longest: int | None) -> dict[str, datasets.Dataset]:
    """The features of every part, no longer than the model reads."""
    task.max_length = min(task.max_length, longest or task.max_length)
    with quiet():
        datasets.disable_caching()
        return {part: task.encode(rows, tokenizer, training=part == TRAIN) for part, rows in task.parts.items()}


def _full(features: datasets.Dataset, length: int) -> float:
    """The share of features as long as they may be: most of those were cut."""
    return sum(tokens >= length for tokens in lengths_of(features)) / max(1, len(features))


def _write(unit: Unit, folder: Path, task: Task, answers: Mapping[str, list[Any]], figures: dict[str, Any]) -> None:
    """Judges the answers to each test set and writes both files."""
    metrics = {part: task.metrics(given, task.parts[part]) for part, given in answers.items()}
    score = statistics.mean(found[name] for found in metrics.values() for name in task.scored)
    result = {"model": unit.model, "task": unit.task, "seed": unit.seed, "metrics": metrics, "score": score, **figures}
    write_text(folder / ANSWERS, json.dumps(next(iter(answers.values()))))
    write_text(folder / RESULT, json.dumps(result, indent=1, allow_nan=False))
