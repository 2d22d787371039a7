"""A run as a walk: its parts, Trainer, fit, evaluation, export, report."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from distillkit import __version__, config, machine, tracking, validation
from distillkit.building import Parts, build, build_cache, build_module, make, mask_epochs, ranks, total_steps
from distillkit.card import model_card
from distillkit.errors import RunStateError
from distillkit.evaluation.summary import describe_model, evaluate_side_by_side
from distillkit.export import export
from distillkit.launching import Stop, check_processes, follow_parent, is_first_rank
from distillkit.objective import Objective
from distillkit.roof import describe_roof
from distillkit.rundir import CHECKPOINTS, FACTS, METRICS, STUDENT, RunFolder
from distillkit.shared_teacher import SharedTeacher
from distillkit.teacher_cache import CachedTeacher
from distillkit.training.callbacks import Checkpointer
from distillkit.training.checkpointing import DirectoryCheckpointIO, checkpoint_step, newest_good
from distillkit.training.faults import as_fault
from distillkit.training.loggers import MetricsFile
from distillkit.training.module import DistillationModule

RESUMABLE_CHANGES = (
    "trainer.max_steps", "trainer.max_epochs", "checkpoint.every_n_steps", "checkpoint.keep_last", "data.num_workers",
    "data.num_proc", "data.cache_dir", "teacher.cache", "logger.wandb.offline", "run.license", "run.report",
    "run.threads", "run.keep_freed_memory", "run.gradient_checkpointing", "run.evaluation_batches",
)  # fmt: skip
"""Keys that may change on resume: they alter no batch, no mask, no gradient and no step already taken."""


def train(cfg: dict[str, Any], overrides: list[str], shared: SharedTeacher | None = None) -> dict[str, Any]:
    """Runs a new run from its first step to its evaluation.

    Args:
        cfg: settled and validated.
        overrides: as typed, for the record.
        shared: the configured teacher, where this is one of several runs in the process.

    Returns:
        The evaluation, as in evaluation.json; empty on ranks beyond the first.

    Raises:
        DistillkitError: with the exit code to end with.
    """
    follow_parent()
    check_processes(ranks(cfg), cfg["trainer"]["num_nodes"])
    with RunFolder(cfg["run"]["dir"], new=True, held=is_first_rank()) as folder:
        machine.set_up(cfg["run"])
        parts = build(cfg, shared)
        return _fit(cfg, overrides, [], parts, folder, None)


def resume(run_dir: str, overrides: list[str], shared: SharedTeacher | None = None) -> dict[str, Any] | None:
    """Continues a run from its newest whole checkpoint, bit for bit.

    Args:
        run_dir: the run's folder.
        overrides: `key=value`, only keys of RESUMABLE_CHANGES.
        shared: as in `train`.

    Returns:
        The evaluation; None when the run had finished already.

    Raises:
        RunStateError: not a run, in use, or the configuration or corpus differ; the differences are named.
    """
    follow_parent()
    with RunFolder(run_dir, new=False, held=is_first_rank()) as folder:
        facts = folder.facts
        began, here = config.completed(facts["config"]), str(folder.path.resolve())
        began = config.relocated(began, began["run"]["dir"], here)
        stored = config.completed(folder.config)
        cfg = config.with_changes(config.relocated(stored, stored["run"]["dir"], here), overrides)
        validation.validate(cfg)
        check_processes(ranks(cfg), cfg["trainer"]["num_nodes"])
        _refuse_changes(began, cfg)
        steps = cfg["trainer"]["max_steps"]
        if folder.finished_step is not None and cfg["trainer"] == began["trainer"]:
            return None
        machine.set_up(cfg["run"])
        parts = build(cfg, shared)
        now = _facts(cfg, parts)
        if now["ranks"] != facts.get("ranks", now["ranks"]):  # of runs of older versions it is not known
            raise RunStateError(f"the run began with {facts['ranks']} processes and would go on with {now['ranks']}",
                                key="trainer.devices", value=cfg["trainer"]["devices"],
                                fix=f"give it {facts['ranks']}, or start a new run")  # fmt: skip
        if now["corpus"] != facts["corpus"]:
            raise RunStateError("the corpus is not the one the run began with", key="data.path",
                                value=cfg["data"].get("path"), fix="restore it, or start a new run")  # fmt: skip
        if now["threads"] != facts["threads"]:
            _say(f"warning: {now['threads']} threads instead of {facts['threads']}: sums round differently, so the run"
                 f" will not be identical; set run.threads={facts['threads']}")  # fmt: skip
        checkpoint = newest_good(folder.path / CHECKPOINTS, on_skip=lambda error: _say(f"warning: skipped {error}"))
        step = checkpoint_step(checkpoint) if checkpoint else 0
        if 0 < steps < step:
            raise RunStateError(f"the run is at step {step} already", key="trainer.max_steps", value=steps,
                                allowed=f">= {step}")  # fmt: skip
        return _fit(cfg, folder.overrides, overrides, parts, folder, checkpoint)


def _refuse_changes(old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = {
        key: values
        for key, values in config.differences(old, new).items()
        # a cache rounds what the teacher says, so that it may move but neither come nor go
        if key not in RESUMABLE_CHANGES or (key == "teacher.cache" and None in values)
    }
    if changed:
        text = ", ".join(f"{key}: {before} -> {after}" for key, (before, after) in changed.items())
        raise RunStateError(
            f"a resumed run keeps its configuration; changed: {text}", key="resume", value=next(iter(changed)),
            allowed=f"changes of {', '.join(RESUMABLE_CHANGES)}", fix="start a new run with train",
        )  # fmt: skip


def _facts(cfg: dict[str, Any], parts: Parts, cache: CachedTeacher | None = None) -> dict[str, Any]:
    return {
        "teacher_cache": cache and cache.keys,
        "version": __version__,
        **machine.settings(),
        "corpus": parts.data.prepare().key,
        "data": parts.data.prepare().stats,
        "ranks": ranks(cfg),
        "tokens_per_step": parts.data.plan(ranks(cfg), cfg["trainer"]["accumulate_grad_batches"]).tokens_per_step,
        "student": describe_model(parts.student.model),
        "transfer": parts.student.report.to_dict(),
    }


def _fit(
    cfg: dict[str, Any],
    overrides: list[str],
    changes: list[str],
    parts: Parts,
    folder: RunFolder,
    checkpoint: Path | None,
) -> dict[str, Any]:
    """Trains from a checkpoint or from the start, exports and evaluates; the folder becomes a run here."""
    shared = parts.teacher if isinstance(parts.teacher, SharedTeacher) else None
    trainer = build_trainer(cfg, parts.objective, folder, checkpoint, shared.stop if shared else None)
    cache = build_cache(cfg, parts, trainer.strategy.root_device)
    if cache is not None:
        _open(cache, mask_epochs(cfg, parts))
    roof = _roof(cfg, folder, trainer)
    module = build_module(cfg, parts, cache=cache, roof=roof["flops_per_second"] if roof else None)
    folder.write_config(cfg, overrides, _facts(cfg, parts, cache) | {"roof": roof})
    step = checkpoint_step(checkpoint) if checkpoint else 0
    steps, _ = total_steps(cfg, parts)
    name = "resume" if checkpoint else "start"
    folder.event(name, step=step, steps=steps, version=__version__, overrides=changes)
    _say(f"{folder.path}: {parts.student.report.summary()[0]}; {parts.data.prepare().stats['train']['rows']:,}"
         f" rows to train on, steps {step} to {steps}")  # fmt: skip
    with tracking.tracked(trainer.loggers, folder.path, cfg, step):
        try:
            trainer.fit(module, datamodule=parts.data, ckpt_path=checkpoint, weights_only=True)
        except (RuntimeError, OSError, EOFError) as error:
            raise as_fault(error, cfg["data"]["num_workers"]) from error
        if cache is not None:
            _close(cache, folder)
        if shared is not None:
            folder.event("shared_pass", **shared.facts())
        return _write_results(cfg, parts, folder, trainer) if trainer.is_global_zero else {}


def _roof(cfg: dict[str, Any], folder: RunFolder, trainer: pl.Trainer) -> dict[str, Any] | None:
    """What the run's speed is a share of; a resumed run's is the one it began with. None on ranks that log nothing."""
    if not folder.held:
        return None
    known = folder.facts.get("roof") if (folder.path / FACTS).is_file() else None
    return describe_roof(trainer.strategy.root_device, cfg["trainer"]["precision"], known)


def _open(cache: CachedTeacher, epochs: int) -> None:
    """Makes the cache's folders, after saying so when not all of the states will be kept."""
    cache.make(epochs)
    size = cache.size(epochs)
    if size["kept_mb"] < size["all_mb"]:
        _say(f"teacher cache: the first {size['kept_mb']:,.0f} of {size['all_mb']:,.0f} MB are kept, the rest is"
             " computed each time; teacher.cache_max_gb is the bound")  # fmt: skip


def _close(cache: CachedTeacher, folder: RunFolder) -> None:
    """Records what came from the cache, and warns of damage."""
    found = cache.facts()
    folder.event("teacher_cache", **found)
    if found["rows_damaged"]:
        _say(f"warning: {found['rows_damaged']} damaged rows of the teacher cache were found and computed anew")


def _write_results(cfg: dict[str, Any], parts: Parts, folder: RunFolder, trainer: pl.Trainer) -> dict[str, Any]:
    """What a trained student leaves: held-out figures beside the teacher's, and its folder with a card of them."""
    models = ({"teacher": parts.teacher.model} if parts.teacher else {}) | {"student": parts.student.model}
    with torch.compiler.set_stance("force_eager"):  # the exported model as anyone will run it
        figures = evaluate_side_by_side(
            models, parts.data, teacher=parts.teacher, limit=cfg["run"]["evaluation_batches"],
            precision=cfg["trainer"]["precision"], device=trainer.strategy.root_device,
        )  # fmt: skip
    folder.write_evaluation(figures)
    module = trainer.lightning_module
    assert isinstance(module, DistillationModule)
    step = max(trainer.global_step, module.resumed_step)  # 0 to a Trainer that had no step left to take
    card = model_card(cfg, folder.facts, figures, folder.commands, step=step, ranks=trainer.world_size)
    export(parts.student.model, parts.tokenizer, folder.path / STUDENT, card)
    folder.event("finish", step=step)
    if cfg["run"]["report"]:
        _report(folder.path)
    return figures


def _report(folder: Path) -> None:
    """The run's page. The run is complete without it, so that nothing about it, not even a stop, makes the run fail."""
    from distillkit.report import write_report  # late: matplotlib takes a second

    alone = threading.current_thread() is threading.main_thread()  # signals are of no other
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if alone else None
    try:
        write_report([folder])
    except (Exception, KeyboardInterrupt) as error:
        reason = " ".join(str(error).split()) or "stopped"
        _say(f"warning: no report ({reason}); try: distillkit report {folder}")
    finally:
        if alone:
            signal.signal(signal.SIGTERM, before)


def build_trainer(
    cfg: dict[str, Any], objective: Objective, folder: RunFolder, checkpoint: Path | None, stop: Stop | None = None
) -> pl.Trainer:
    """Lightning's Trainer with the configured keys, the run's checkpoints and its loggers.

    With several ranks and no term on logits, DDP is told to look for weights without a gradient: those of the head.
    """
    callbacks = [make(c) for c in cfg["callbacks"].values()]
    callbacks.append(Checkpointer(folder.path / CHECKPOINTS, on_event=folder.event, stop=stop, **cfg["checkpoint"]))
    loggers = [make(c) for c in cfg["logger"].values()] if folder.held else []
    loggers.append(MetricsFile(folder.path / METRICS, resumed_step=checkpoint_step(checkpoint) if checkpoint else None))
    strategy = cfg["trainer"]["strategy"]
    if ranks(cfg) > 1 and strategy in ("auto", "ddp") and all(term.on != "logits" for term in objective.terms.values()):
        strategy = "ddp_find_unused_parameters_true"
    return make(
        cfg["trainer"] | {"strategy": strategy}, callbacks=callbacks, logger=loggers, plugins=[DirectoryCheckpointIO()],
        default_root_dir=str(folder.path),
    )  # fmt: skip


def _say(text: str) -> None:
    if is_first_rank():
        print(text, file=sys.stderr, flush=True)
