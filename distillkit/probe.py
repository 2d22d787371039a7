"""What a run will take, from a few of its own steps: the part of `info` that measures."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytorch_lightning as pl
import torch

from distillkit import building
from distillkit.evaluation.intrinsic import evaluate_pair
from distillkit.evaluation.summary import limit_batches, move
from distillkit.machine import MEGABYTE, memory_used
from distillkit.phases import NAMES, advise
from distillkit.progress import activity
from distillkit.roof import describe_roof
from distillkit.training.module import DistillationModule, validation_interval
from distillkit.types import Batch

_STEPS, _SECONDS = 4, 20.0


def probe(cfg: dict[str, Any], parts: building.Parts) -> dict[str, Any]:
    """Trains a few steps of the run in one process, without writing anything, and extrapolates.

    The first step is a warm-up. An accumulation is measured as two micro-batches and scaled. The student is not the
    initial one afterwards.

    Args:
        cfg: settled and validated.
        parts: built from it.

    Returns:
        out_of_memory, whether the GPU's did not suffice; where it did: seconds_per_step, phases (its seconds by phase),
        tokens_per_second (attended positions of one process), flops_per_second and mfu (share of the roof; None where
        the operations cannot be counted), roof (`describe_roof`), advice (what to change), train_seconds and
        evaluation_seconds of the whole run (validations and the evaluation after training), peak_memory_mb of this
        process. On a GPU peak_gpu_memory_mb. MB of 10^6 bytes.
    """
    try:
        return {"out_of_memory": False} | _measured(cfg, parts)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True, "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / MEGABYTE}


def _measured(cfg: dict[str, Any], parts: building.Parts) -> dict[str, Any]:
    accumulate = cfg["trainer"]["accumulate_grad_batches"]
    timer, own = _Timer(), min(accumulate, 2)
    alone: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto", "limit_val_batches": 0}
    alone |= {"val_check_interval": 1.0, "check_val_every_n_epoch": 1, "min_steps": None, "min_epochs": None}
    short = {"max_steps": _STEPS, "max_epochs": None, "accumulate_grad_batches": own, "log_every_n_steps": _STEPS + 1}
    silent = {"logger": False, "enable_checkpointing": False, "callbacks": [timer]}
    trainer = building.make(cfg["trainer"] | alone | short, **silent)
    device = trainer.strategy.root_device
    roof = describe_roof(device, cfg["trainer"]["precision"])
    with activity("probing: a few steps"):
        trainer.fit(building.build_module(cfg, parts, roof=roof["flops_per_second"]), datamodule=parts.data)
    speed = _scaled(timer.figures, accumulate / own)
    with activity("probing: evaluation"):
        each, batches = _evaluation(cfg, parts, device)
    steps, _ = building.total_steps(cfg, parts)
    return {
        **speed,
        "roof": roof,
        "advice": advise(speed["phases"], cfg),
        "train_seconds": steps * speed["seconds_per_step"],
        "evaluation_seconds": each * batches,
        **memory_used(device),
    }


def _scaled(figures: dict[str, float], more: float) -> dict[str, Any]:
    """The gauge's figures for a step of `more` times as many micro-batches, which still updates once."""
    phases = {name: figures[f"{name}_seconds"] * (1 if name == "optimizer" else more) for name in NAMES}
    step = sum(phases.values())
    faster = more * figures["seconds_per_step"] / step
    rates = {name: figures.get(name) for name in ("tokens_per_second", "flops_per_second", "mfu")}
    found = {name: None if rate is None else rate * faster for name, rate in rates.items()}
    return {"seconds_per_step": step, "phases": phases, **found}


class _Timer(pl.Callback):
    """Figures of the optimizer steps after the first, which warms up; ends the training when they take long."""

    def __init__(self) -> None:
        self.figures: dict[str, float] = {}
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch.micro < trainer.accumulate_grad_batches - 1:
            return
        assert isinstance(pl_module, DistillationModule) and pl_module.gauge is not None
        if trainer.global_step == 1:
            pl_module.gauge.window()
        else:
            trainer.should_stop = time.perf_counter() - self._began > _SECONDS

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DistillationModule) and pl_module.gauge is not None
        self.figures = pl_module.gauge.window()


def _evaluation(cfg: dict[str, Any], parts: building.Parts, device: torch.device) -> tuple[float, float]:
    """Seconds of one held-out micro-batch, and how many the whole run evaluates."""
    loader = parts.data.valid_stream()
    if loader is None:
        return 0.0, 0.0
    trainer, model = cfg["trainer"], parts.student.model
    seconds = []
    for batch in itertools.islice(loader, 2):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=str(trainer["precision"]) in ("bf16-mixed", "bf16")):
            evaluate_pair(model.to(device), [move(batch, device)], parts.teacher)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - began)
    validations = _validations(cfg, parts)
    counts = validations * limit_batches(trainer["limit_val_batches"], len(loader))
    return min(seconds), counts + limit_batches(cfg["run"]["evaluation_batches"], len(loader))


def _validations(cfg: dict[str, Any], parts: building.Parts) -> int:
    """How often the run validates."""
    trainer, (steps, epoch) = cfg["trainer"], building.total_steps(cfg, parts)
    accumulate, every = trainer["accumulate_grad_batches"], trainer["check_val_every_n_epoch"]
    interval = validation_interval(trainer["val_check_interval"], every, epoch * accumulate, accumulate)
    return steps * accumulate // interval
