"""Interleaved rounds: every contender takes the same batch once a round, in turn, and each round is a comparison."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distillkit.types import Batch

FEWEST = 3


def interleave(
    steps: Mapping[str, Callable[[Batch], None]],
    batches: Sequence[Batch],
    *,
    seconds: float,
    between: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every step in every round.

    A first round, over the batch with the most positions, is not counted. The order rotates by one a round.

    Args:
        steps: name -> a contender's step.
        batches: one a round, in turn.
        seconds: to spend; a round is begun while they last, and at least FEWEST are.
        between: called between rounds, outside the measurement.
        clock: seconds.

    Returns:
        name -> seconds by round; round i took batches[i % len(batches)].
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for step in steps.values():
        step(max(batches, key=lambda batch: batch.input_ids.numel()))
    end = clock() + seconds
    gc.freeze()  # what is there stays: a collection then takes no time
    for turn in itertools.count():
        if turn >= FEWEST and clock() >= end:
            break
        between()
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            gc.collect()  # what the one before left in cycles
            start = clock()
            steps[name](batches[turn % len(batches)])
            times[name].append(clock() - start)
    gc.unfreeze()
    return times


def quartiles(values: Sequence[float]) -> dict[str, float]:
    """low, median and high: the quartiles of at least two values."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"low": low, "median": median, "high": high}


def summaries(
    times: Mapping[str, Sequence[float]], batches: Sequence[Batch], flops: Mapping[str, Sequence[float]], reference: str
) -> dict[str, dict[str, Any]]:
    """What the rounds say of each contender.

    Args:
        times: of `interleave`.
        batches: one a round, in turn.
        flops: name -> useful operations of each batch.
        reference: the contender that the ratios are of.

    Returns:
        name -> seconds, tokens_per_second (of real tokens) and ratio (of the reference's seconds to its own in the
        same round) as `quartiles`; flops_per_token and flops_per_second of the median round.
    """
    tokens = [batch.totals.attended for batch in batches]
    found = {}
    for name, seconds in times.items():
        each = [(s, i % len(batches)) for i, s in enumerate(seconds)]
        found[name] = {
            "seconds": quartiles(seconds),
            "tokens_per_second": quartiles([tokens[i] / s for s, i in each]),
            "ratio": quartiles([base / s for base, s in zip(times[reference], seconds, strict=True)]),
            "flops_per_token": sum(flops[name]) / sum(tokens),
            "flops_per_second": statistics.median(flops[name][i] / s for s, i in each),
        }
    return found
