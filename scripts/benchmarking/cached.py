"""An epoch whose teacher states come from the cache against one without a cache, and against the one that fills it."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.demo_corpus import DemoCorpus
from distillkit.demo_teacher import demo_tokenizer
from distillkit.rowstore import RowStore
from distillkit.teacher_cache import CachedTeacher
from distillkit.teachers import Teacher
from distillkit.types import Batch
from scripts.benchmarking import batches
from scripts.benchmarking.contenders import ours
from scripts.benchmarking.rounds import interleave, quartiles
from scripts.benchmarking.shapes import Models, Shape, encoder_flops, useful_flops

_BATCHES, _MAX_GB = 8, 10.0


def measure(shape: Shape, folder: Path, *, positions: str, seconds: float) -> dict[str, Any]:
    """Packed batches in bf16: once to fill the cache, then in rounds with it and without.

    Args:
        shape: of the models.
        folder: for the cache.
        positions: that carry the soft targets' loss.
        seconds: of the rounds.

    Returns:
        seconds of a step uncached, filling and cached, and ratio of uncached to cached in the same round, as
        `quartiles`; bound, that ratio if every operation took the same time; facts of the cache.
    """
    data = MaskedLMDataModule(
        DemoCorpus(), demo_tokenizer(), max_length=shape.length, batch_size=shape.rows, seed=batches.SEED
    )
    models = shape.models(0.1)
    homes = data.homes()
    stores = {name: RowStore(folder, {"split": name}) for name in homes}
    teacher = Teacher(copy.deepcopy(models.teacher), torch.bfloat16)
    cache = CachedTeacher(teacher, homes, stores, dtype="bfloat16", max_gb=_MAX_GB)
    for store in stores.values():
        store.make(config_key="teacher.cache")
    plain, kept = (
        ours(
            Models(teacher.model, copy.deepcopy(models.student)), precision="bf16", positions=positions, teacher=source
        )
        for source in (teacher, cache)
    )
    chosen, filling = list(data.train_stream(end_step=_BATCHES)), []
    for batch in chosen:
        start = time.perf_counter()
        kept.step(batch)
        filling.append(time.perf_counter() - start)
    times = interleave({"uncached": plain.step, "cached": kept.step}, chosen, seconds=seconds)
    ratios = [a / b for a, b in zip(times["uncached"], times["cached"], strict=True)]
    found = {name: quartiles(values) for name, values in (times | {"filling": filling}).items()}
    return {
        "seconds": found, "ratio": quartiles(ratios), "bound": _bound(models, chosen, positions),
        "rounds": len(ratios), "cache": cache.facts(),
    }  # fmt: skip


def _bound(models: Models, chosen: Sequence[Batch], positions: str) -> float:
    """All operations of the steps, of those that are left when the teacher's encoder has not to run."""
    lengths = [length for batch in chosen for length in batches.lengths(batch)]
    losses = sum(b.totals.attended if positions == "all" else b.totals.predicted for b in chosen)
    every = useful_flops(models.teacher.config, models.student.config, lengths, losses)
    return every / (every - sum(encoder_flops(models.teacher.config, length) for length in lengths))
