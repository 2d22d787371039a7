"""Which rows meet in which optimizer step: fixed first for the whole step, then cut into ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from distillkit.data.randomness import ORDER_STREAM, generator
from distillkit.errors import ConfigError, DataError
from distillkit.types import StepTotals

PACKINGS = ("full", "none", "sentences")
"""full: blocks of exactly max_length tokens; none: one text a row; sentences: two segments of whole sentences a row.
Rows of other packings than full differ in length, and those of like length meet in a batch."""

PAD_MULTIPLE = 8
"""Batches are padded to a multiple of this, at most max_length: tensor cores like it, and shapes repeat."""


class MicroBatch(NamedTuple):
    """What one rank computes between two calls of backward.

    Attributes:
        epoch: of the masks, from 0: that of the data, modulo data.mask_epochs.
        step: global optimizer step, from 0; -1 outside training.
        micro: index within the rank's share of the step, from 0.
        rows: [B] int, indices into the split.
        totals: of the whole optimizer step; of this batch itself outside training.
    """

    epoch: int
    step: int
    micro: int
    rows: np.ndarray
    totals: StepTotals


def padded_length(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Round [N] lengths up to a multiple of PAD_MULTIPLE, but never above max_length; [N] int."""
    return np.minimum(-(-lengths // PAD_MULTIPLE) * PAD_MULTIPLE, max_length)


def totals_of(lengths: np.ndarray, predictions: np.ndarray) -> StepTotals:
    """What rows hold: [B] tokens and [B] predictions of each."""
    return StepTotals(int(lengths.sum(dtype=np.int64)), int(predictions.sum(dtype=np.int64)), len(lengths))


def check_batching(*, batch_size: int | None, batch_tokens: int | None, packing: str, max_length: int) -> None:
    """Raise ConfigError unless the values make a batch plan; cheap, so that it can run before any data is read.

    Args:
        batch_size: rows of a micro-batch, at least 1; or None.
        batch_tokens: positions of a micro-batch, padding included, at least max_length; or None.
        packing: one of PACKINGS.
        max_length: longest row in tokens, at least 8.
    """
    one_of_two = "exactly one of data.batch_size and data.batch_tokens must be set"
    for fine, problem, key, value, allowed, fix in (
        (packing in PACKINGS, "unknown packing", "packing", packing, ", ".join(PACKINGS), "packing=full"),
        (max_length >= PAD_MULTIPLE, "too short", "max_length", max_length, f">= {PAD_MULTIPLE}", "max_length=128"),
        (
            (batch_size is None) != (batch_tokens is None),
            one_of_two,
            "batch_size",
            batch_size,
            None,
            "batch_size=32" if batch_size is None else "batch_size=null",
        ),
        (batch_size is None or batch_size >= 1, "no rows", "batch_size", batch_size, ">= 1", "batch_size=32"),
        (
            batch_tokens is None or batch_tokens >= max_length,
            "the longest row does not fit",
            "batch_tokens",
            batch_tokens,
            f">= data.max_length ({max_length})",
            f"batch_tokens={64 * max_length}",
        ),
    ):
        if not fine:
            raise ConfigError(problem, key=f"data.{key}", value=value, allowed=allowed, fix=f"set data.{fix}")


def lesser_bound(max_steps: int, max_epochs: int | None, steps_per_epoch: int) -> int | None:
    """Optimizer steps of a training bounded by steps, by epochs or by both, as Lightning's Trainer.

    Args:
        max_steps, max_epochs: -1, or None of epochs: no bound.
        steps_per_epoch: of the plan.

    Returns:
        The lesser bound, None without any.
    """
    bounds = [max_steps, -1 if max_epochs is None else max_epochs * steps_per_epoch]
    return min((bound for bound in bounds if bound >= 0), default=None)


class BatchPlan:
    """The rows of every micro-batch of every rank, for ever; a pure function of (seed, epoch).

    An epoch is a whole number of optimizer steps; the remainder is dropped, other rows in each epoch. The micro-batch
    `micro` of `rank` is slice number micro * world_size + rank of its step's rows, so 8 x 1, 4 x 2, 1 x 8 and 2 ranks
    x 4 hold the same rows in every step, and ranks that compute at the same time hold rows of like length.

    packing=full: a random permutation. packing=none: the permutation is sorted by padded length (stable: rows that
    pad to the same length stay shuffled among all such rows), cut into steps, and the steps are shuffled.

    Args:
        lengths: [N] int, tokens of each row, specials included.
        predictions: [N] int, predicted positions of each row.
        seed: of the order; taken modulo 2**64.
        batch_size: rows of a micro-batch; or None.
        batch_tokens: most positions of a micro-batch, padding included; or None. Exactly one of the two.
        packing: one of PACKINGS.
        max_length: longest row in tokens.
        mask_epochs: epoch e has the masks of epoch e modulo this; None: masks of its own. The order is its own always.
        world_size: number of ranks.
        accumulate: micro-batches of one rank in one optimizer step.

    Raises:
        ConfigError: a value is out of range.
        DataError: there are fewer rows than one optimizer step takes.

    Attributes:
        steps_per_epoch: optimizer steps of an epoch.
        batches_per_epoch: micro-batches of an epoch on one rank.
        dropped_rows: rows that epoch 0 leaves out (with batch_tokens and unequal rows later epochs differ a little).
        tokens_per_step: attended positions of an optimizer step, the mean over epoch 0.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        predictions: np.ndarray,
        *,
        seed: int,
        batch_size: int | None,
        batch_tokens: int | None,
        packing: str,
        max_length: int,
        mask_epochs: int | None = None,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        check_batching(batch_size=batch_size, batch_tokens=batch_tokens, packing=packing, max_length=max_length)
        self.world_size, self.accumulate, self.mask_epochs = world_size, accumulate, mask_epochs
        self._lengths, self._predictions, self._seed = lengths, predictions, seed
        # Rows of one bin pad to the same length. NumPy sorts 16-bit integers by radix: 20M rows take a second.
        self._bins = -(-lengths // PAD_MULTIPLE).astype(np.int16) if packing != "full" else None
        share = world_size * accumulate
        if batch_tokens is not None and packing != "full":
            self._cuts = _cut_by_tokens(np.sort(padded_length(lengths, max_length)), batch_tokens)
            batches = len(self._cuts) - 1
        else:
            rows = batch_size or (batch_tokens or 0) // max_length
            batches = len(lengths) // rows
            self._cuts = np.arange(batches // share * share + 1, dtype=np.int64) * rows
        self.steps_per_epoch = batches // share
        self.batches_per_epoch = self.steps_per_epoch * accumulate
        if self.steps_per_epoch == 0:
            raise DataError(
                f"{len(lengths)} rows make {batches} micro-batches, fewer than the {share} of one optimizer step "
                f"({world_size} ranks x {accumulate} micro-batches)",
                key="data.batch_size" if batch_size else "data.batch_tokens",
                value=batch_size or batch_tokens,
                fix="lower it, trainer.accumulate_grad_batches or data.max_length, or give more text",
            )
        rows_used = self.epoch_rows(0)[0]
        self.dropped_rows = len(lengths) - len(rows_used)
        self.tokens_per_step = int(lengths[rows_used].sum(dtype=np.int64)) / self.steps_per_epoch

    def micro_batches(self, rank: int, start_batch: int = 0, end_batch: int | None = None) -> Iterator[MicroBatch]:
        """Yield the micro-batches of one rank in order, from number start_batch on.

        Args:
            rank: from 0 to world_size - 1.
            start_batch: how many micro-batches this rank has done already, over all epochs.
            end_batch: the number to stop before; None goes on for ever.
        """
        batch = start_batch
        while end_batch is None or batch < end_batch:
            epoch, start = divmod(batch, self.batches_per_epoch)
            order, cuts = self.epoch_rows(epoch)
            left = self.batches_per_epoch if end_batch is None else end_batch - batch
            stop = min(self.batches_per_epoch, start + left)
            for number in range(start, stop):
                step, micro = divmod(number, self.accumulate)
                first = step * self.accumulate * self.world_size
                own = first + micro * self.world_size + rank
                yield MicroBatch(
                    epoch if self.mask_epochs is None else epoch % self.mask_epochs,
                    epoch * self.steps_per_epoch + step,
                    micro,
                    order[cuts[own] : cuts[own + 1]],
                    self._totals(order[cuts[first] : cuts[first + self.accumulate * self.world_size]]),
                )
            batch += stop - start

    def _totals(self, rows: np.ndarray) -> StepTotals:
        """What [B] rows hold."""
        return totals_of(self._lengths[rows], self._predictions[rows])

    def epoch_rows(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an epoch in the order of use [<= N] int32, and where its batches are cut [batches + 1] int64.

        Batches of all ranks: those of one optimizer step are neighbours.
        """
        rng = generator(self._seed, ORDER_STREAM, epoch)
        order = np.arange(len(self._lengths), dtype=np.int32)
        rng.shuffle(order)
        order = order[: self._cuts[-1]]
        if self._bins is None:
            return order, self._cuts
        order = order[np.argsort(self._bins[order], kind="stable")]
        share = self.world_size * self.accumulate
        # Drawn before anything whose size depends on how a step is cut.
        steps = rng.permutation(self.steps_per_epoch)
        # Which batches are left over is drawn, or with batch_tokens the longest rows would never be seen.
        kept = np.sort(rng.permutation(len(self._cuts) - 1)[: self.steps_per_epoch * share])
        pieces = np.stack([self._cuts[kept], self._cuts[kept + 1]], axis=1)
        return _gather(order, pieces.reshape(-1, share, 2)[steps].reshape(-1, 2))


def _gather(order: np.ndarray, pieces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate order[a:b] for the [M, 2] pieces (a, b); also return where the pieces lie, [M + 1] int64."""
    sizes = pieces[:, 1] - pieces[:, 0]
    cuts = np.concatenate([[0], np.cumsum(sizes)])
    return order[np.arange(cuts[-1]) + np.repeat(pieces[:, 0] - cuts[:-1], sizes)], cuts


def _cut_by_tokens(padded: np.ndarray, batch_tokens: int) -> np.ndarray:
    """Cut ascending padded lengths [N] greedily so that rows * longest <= batch_tokens; [M + 1] int64 cuts.

    The cuts depend on the multiset of lengths only, hence are the same in every epoch.
    """
    cuts = [0]
    while (start := cuts[-1]) < len(padded):
        window = padded[start : start + batch_tokens // int(padded[start])].astype(np.int64)
        fitting = int(np.searchsorted(np.arange(1, len(window) + 1) * window, batch_tokens, side="right"))
        cuts.append(start + fitting)
    return np.asarray(cuts, dtype=np.int64)
