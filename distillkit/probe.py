"""What a run will take, from a few of its own steps: the part of `info` that measures."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from typing import Any

import pytorch_lightning as pl
import torch

from distillkit import building
from distillkit.evaluation.intrinsic import evaluate_pair
from distillkit.evaluation.summary import limit_batches, move
from distillkit.machine import MEGABYTE, memory_used
from distillkit.progress import activity
from distillkit.training.module import validation_interval
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
        out_of_memory, whether the GPU's did not suffice; where it did: seconds_per_step, tokens_per_second (attended
        positions of one process), train_seconds and evaluation_seconds of the whole run (validations and the
        evaluation after training), peak_memory_mb of this process. On a GPU peak_gpu_memory_mb. MB of 10^6 bytes.
    """
    try:
        return {"out_of_memory": False} | _measured(cfg, parts)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True, "peak_gpu_memory_mb": torch.cuda.max_memory_allocated() / MEGABYTE}


def _measured(cfg: dict[str, Any], parts: building.Parts) -> dict[str, Any]:
    accumulate = cfg["trainer"]["accumulate_grad_batches"]
    timer = _Timer()
    alone: dict[str, Any] = {"devices": 1, "num_nodes": 1, "strategy": "auto", "limit_val_batches": 0}
    alone |= {"val_check_interval": 1.0, "check_val_every_n_epoch": 1, "min_steps": None, "min_epochs": None}
    own = {"max_steps": _STEPS, "max_epochs": None, "accumulate_grad_batches": min(accumulate, 2)}
    silent = {"logger": False, "enable_checkpointing": False, "callbacks": [timer]}
    trainer = building.make(cfg["trainer"] | alone | own, **silent)
    with activity("probing: a few steps"):
        trainer.fit(building.build_module(cfg, parts), datamodule=parts.data)
    first, last = (statistics.median(timer.seconds[micro]) for micro in (0, min(accumulate, 2) - 1))
    step = (accumulate - 1) * first + last
    with activity("probing: evaluation"):
        each, batches = _evaluation(cfg, parts, trainer.strategy.root_device)
    steps, _ = building.total_steps(cfg, parts)
    return {
        "seconds_per_step": step,
        "tokens_per_second": accumulate * statistics.mean(timer.tokens) / step,
        "train_seconds": steps * step,
        "evaluation_seconds": each * batches,
        **memory_used(trainer.strategy.root_device),
    }


class _Timer(pl.Callback):
    """Seconds of each micro-batch after the first optimizer step, by its place in the step, and tokens of each."""

    def __init__(self) -> None:
        self.seconds: dict[int, list[float]] = defaultdict(list)
        self.tokens: list[int] = []
        self._began = self._last = time.perf_counter()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._last = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if trainer.global_step > 1 or (trainer.global_step == 1 and batch.micro < trainer.accumulate_grad_batches - 1):
            self.seconds[batch.micro].append(now - self._last)
        self.tokens.append(batch.input_ids.numel() if batch.attention_mask is None else int(batch.attention_mask.sum()))
        self._last = now
        measured = all(self.seconds.get(micro) for micro in range(trainer.accumulate_grad_batches))
        trainer.should_stop = measured and now - self._began > _SECONDS


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
