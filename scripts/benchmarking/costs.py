"""What a step costs in a process of its own: seconds and peak memory, at one size."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from distillkit.machine import MEGABYTE, keep_freed_memory, peak_memory
from scripts.benchmarking.batches import random_batch
from scripts.benchmarking.recipes import RECIPES
from scripts.benchmarking.shapes import SHAPES

_MARGIN = 0.9
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")


class Point(NamedTuple):
    """One measurement: a contender at a size. Models are random, batches without padding."""

    contender: str
    shape: str
    rows: int
    length: int
    vocabulary: int


def measure(points: Sequence[Point], *, steps: int) -> list[dict[str, Any]]:
    """Each point in a fresh process, one after the other.

    Args:
        points: to measure.
        steps: that are timed, after one that is not.

    Returns:
        The point's fields with seconds (median of a step) and peak_memory_mb, of the whole process, MB of 10^6 bytes;
        both None where the machine has too little memory.
    """
    return [point._asdict() | _in_fresh_process(point, steps) for point in points]


def _in_fresh_process(point: Point, steps: int) -> dict[str, float | None]:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        try:
            return fresh.submit(_measure_here, point, steps, torch.get_num_threads()).result()
        except (BrokenProcessPool, MemoryError):
            return {"seconds": None, "peak_memory_mb": None}


def _measure_here(point: Point, steps: int, threads: int) -> dict[str, float]:
    keep_freed_memory()
    torch.set_num_threads(threads)
    _limit_memory()
    try:
        contender = RECIPES[point.contender].build(SHAPES[point.shape].models(0.1, point.vocabulary))
        batch = random_batch(point.rows, point.length, point.vocabulary)
        times = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            contender.step(batch)
            times.append(time.perf_counter() - start)
    except RuntimeError as error:
        if any(hint in str(error) for hint in _OUT_OF_MEMORY):
            raise MemoryError from error
        raise
    return {"seconds": statistics.median(times[1:]), "peak_memory_mb": peak_memory() / MEGABYTE}


def _limit_memory() -> None:
    """Lets a step that needs more than the machine has fail by itself, instead of taking others with it."""
    info = Path("/proc/meminfo")
    if info.is_file():
        available = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable"))
        most = int(int(available.split()[1]) * 1024 * _MARGIN)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def memory_points(shape: str, contenders: Iterable[str], rows: int, length: int, vocabulary: int) -> list[Point]:
    """Every contender at one size."""
    return [Point(name, shape, rows, length, vocabulary) for name in contenders]


def scaling_points(shape: str, contenders: Iterable[str], *, quick: bool) -> dict[str, list[Point]]:
    """Every contender over batch (8 to 64 rows of 128), length (64 to 512, 16 rows) and vocabulary (30k to 120k).

    Args:
        shape: of the models.
        contenders: names.
        quick: the ends of each range alone.
    """
    series = {
        "rows": [(rows, 128, 30_522) for rows in (8, 16, 32, 64)],
        "length": [(16, length, 30_522) for length in (64, 128, 256, 512)],
        "vocabulary": [(16, 128, vocabulary) for vocabulary in (30_000, 60_000, 120_000)],
    }
    names = list(contenders)
    return {
        what: [Point(name, shape, *size) for name in names for size in (sizes[:: len(sizes) - 1] if quick else sizes)]
        for what, sizes in series.items()
    }


def growth(points: Sequence[dict[str, Any]], what: str) -> float | None:
    """How much more a unit costs at the largest size than at the smallest; 1: the cost is linear.

    Below 1 a part of the cost is fixed.

    Args:
        points: of one contender, of `measure`.
        what: the field that grows.
    """
    first, last = (min(points, key=lambda p: p[what]), max(points, key=lambda p: p[what]))
    if first["seconds"] is None or last["seconds"] is None:
        return None
    return float(last["seconds"] / last[what] / (first["seconds"] / first[what]))
