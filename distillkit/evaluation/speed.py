"""How fast encoders are on the CPU: the time of one text, and texts a second in batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from distillkit.encoding import longest_row

LENGTH = 128
ROUNDS, WARM_UP, BLOCKS = 60, 10, 10
SECONDS_PER_MODEL = 15.0
BATCH, LENGTHS = 16, (32, 128, 384)
BATCH_ROUNDS, SECONDS_PER_LENGTH = (3, 30), 5.0
"""Fewest and most timed batches of a model and length, and the time they are to take in between."""


def latency(
    models: Mapping[str, PreTrainedModel], *, length: int = LENGTH, rounds: int = ROUNDS
) -> dict[str, dict[str, Any]]:
    """Time of one forward pass of each encoder (without the masked-LM head) over one text, on the CPU.

    The models take turns, so that whatever else the machine does meets them alike.

    Args:
        models: name -> model, in the dtype to measure.
        length: tokens of the text; fewer, for all alike, where a model has fewer positions.
        rounds: at most; a slow model gets fewer, at least BLOCKS.

    Returns:
        name -> median and p95 in ms; spread, by how much of the median the medians of BLOCKS consecutive blocks of
        rounds differ at most; length, batch, threads, rounds.
    """
    length = common_length(models.values(), length)
    calls = {name: encoder_call(model, 1, length)[0] for name, model in models.items()}
    slowest = max(statistics.median(_seconds(call) for _ in range(WARM_UP)) for call in calls.values())
    rounds = max(BLOCKS, min(rounds, int(SECONDS_PER_MODEL / (2 * slowest))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            _seconds(call)  # twice a round: the caches are the model's own again
            times[name].append(_seconds(call) * 1000)
    shape = {"length": length, "batch": 1, "threads": torch.get_num_threads(), "rounds": rounds}
    return {name: _summary(values) | shape for name, values in times.items()}


def common_length(models: Iterable[PreTrainedModel], length: int) -> int:
    """The longest text up to `length` tokens that every model has positions for."""
    return min([length, *(longest_row(model) or length for model in models)])


def throughput(
    models: Mapping[str, PreTrainedModel], *, lengths: Sequence[int] = LENGTHS, batch: int = BATCH
) -> dict[str, dict[str, Any]]:
    """Texts a second that each encoder (without the masked-LM head) reads in batches, on the CPU.

    At each length the models take turns; a slow model gets fewer turns.

    Args:
        models: name -> model, in the dtype to measure.
        lengths: tokens of the texts; the longest row a model takes stands for all beyond it.
        batch: texts read at once, all of the same length.

    Returns:
        name -> throughput: {"32": texts/s, ...} by the length that was read, from the median of the turns;
        throughput_batch, throughput_threads.
    """
    rates: dict[str, dict[str, float]] = {name: {} for name in models}
    for length in lengths:
        calls = {name: encoder_call(model, batch, length) for name, model in models.items()}
        times = _take_turns({name: call for name, (call, _) in calls.items()})
        for name, (_, tokens) in calls.items():
            rates[name][str(tokens)] = batch / statistics.median(times[name])
    shape = {"throughput_batch": batch, "throughput_threads": torch.get_num_threads()}
    return {name: {"throughput": rate} | shape for name, rate in rates.items()}


def _take_turns(calls: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Seconds of each call, after a warm-up that tells how many turns fit into SECONDS_PER_LENGTH."""
    fewest, most = BATCH_ROUNDS
    turns = {}
    for name, call in calls.items():
        _seconds(call)  # the first pass allocates
        turns[name] = max(fewest, min(most, int(SECONDS_PER_LENGTH / _seconds(call))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(max(turns.values())):
        for name, call in calls.items():
            if turn < turns[name]:
                times[name].append(_seconds(call))
    return times


def encoder_call(model: PreTrainedModel, batch: int, length: int) -> tuple[Callable[[], Any], int]:
    """A forward pass of a model's encoder over random texts.

    Args:
        model: put into eval mode.
        batch: texts.
        length: tokens of each; fewer where the model has fewer positions.

    Returns:
        The call, and the tokens of each text.
    """
    tokens = min(length, longest_row(model) or length)
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0))
    model.eval()
    return lambda: model.base_model(input_ids=ids)[0], tokens


def _seconds(call: Callable[[], Any]) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def _summary(times: Sequence[float]) -> dict[str, float]:
    median = statistics.median(times)
    size = len(times) // BLOCKS
    blocks = [statistics.median(times[i * size : (i + 1) * size]) for i in range(BLOCKS)]
    return {
        "median": median,
        "p95": statistics.quantiles(times, n=20, method="inclusive")[-1],
        "spread": (max(blocks) - min(blocks)) / median,
    }
