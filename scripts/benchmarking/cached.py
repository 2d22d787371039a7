"""An epoch whose teacher states come from the cache against one without a cache, and against the one that fills it."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import torch

from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.demo_corpus import DemoCorpus
from distillkit.demo_teacher import demo_tokenizer
from distillkit.rowstore import RowStore
from distillkit.teacher_cache import CachedTeacher
from distillkit.teachers import Teacher
from scripts.benchmarking.batches import SEED
from scripts.benchmarking.contenders import ours
from scripts.benchmarking.rounds import interleave, quartiles
from scripts.benchmarking.shapes import Models, Shape

_BATCHES, _MAX_GB = 8, 10.0


def measure(shape: Shape, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Packed batches in bf16, CE on all positions: once to fill the cache, then in rounds with it and without.

    Args:
        shape: of the models.
        folder: for the cache.
        seconds: of the rounds.

    Returns:
        seconds of a step uncached, filling and cached, and ratio of uncached to cached in the same round, as
        `quartiles`; facts of the cache.
    """
    data = MaskedLMDataModule(DemoCorpus(), demo_tokenizer(), max_length=shape.length, batch_size=shape.rows, seed=SEED)
    models = shape.models(0.1)
    homes = data.homes()
    stores = {name: RowStore(folder, {"split": name}) for name in homes}
    teacher = Teacher(copy.deepcopy(models.teacher), torch.bfloat16)
    cache = CachedTeacher(teacher, homes, stores, dtype="bfloat16", max_gb=_MAX_GB)
    for store in stores.values():
        store.make(config_key="teacher.cache")
    plain, kept = (
        ours(Models(teacher.model, copy.deepcopy(models.student)), precision="bf16", positions="all", teacher=source)
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
    return {"seconds": found, "ratio": quartiles(ratios), "rounds": len(ratios), "cache": cache.facts()}
