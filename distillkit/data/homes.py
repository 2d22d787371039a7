"""The micro-batch a masked row comes in first: its home. What is computed there can be computed again, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from distillkit.data.dataset import MaskedRows
from distillkit.data.plan import MicroBatch
from distillkit.types import Batch, StepTotals


class HomeEpoch(NamedTuple):
    """The homes of the rows with the masks of one epoch: the micro-batches of that epoch, of all ranks.

    The rows that the epoch drops come last, each in a home of its own.

    Attributes:
        rows: [N] int, in the epoch's order.
        cuts: [homes + 1] int64, where the micro-batches are cut.
        places: [N] int32, of each row of the split among `rows`.
        tokens: [N + 1] int64, how many tokens come before each of `rows`, and in all.
    """

    rows: np.ndarray
    cuts: np.ndarray
    places: np.ndarray
    tokens: np.ndarray

    def batch_of(self, places: np.ndarray) -> np.ndarray:
        """[B] numbers of the micro-batches with the rows at [B] places."""
        return np.searchsorted(self.cuts, places, side="right") - 1

    def members(self, batch: int) -> np.ndarray:
        """The rows of a micro-batch, in their order."""
        return self.rows[self.cuts[batch] : self.cuts[batch + 1]]


class Homes:
    """The homes of one split's rows.

    Args:
        source: makes the micro-batches.
        lengths: [N] int, tokens of each row.
        epoch_rows: epoch -> the rows in their order, and where the micro-batches are cut (`BatchPlan.epoch_rows`).

    Attributes:
        lengths: as given.
    """

    def __init__(
        self, source: MaskedRows, lengths: np.ndarray, epoch_rows: Callable[[int], tuple[np.ndarray, np.ndarray]]
    ) -> None:
        self.lengths, self._source, self._epoch_rows = lengths, source, epoch_rows
        self.epoch = lru_cache(maxsize=1)(self._epoch)  # of 20 million rows it takes seconds and 240 MB

    def _epoch(self, epoch: int) -> HomeEpoch:
        rows, cuts = self._epoch_rows(epoch)
        dropped = np.ones(len(self.lengths), dtype=bool)
        dropped[rows] = False
        rows = np.concatenate([rows, np.flatnonzero(dropped).astype(rows.dtype)])
        cuts = np.concatenate([cuts, np.arange(cuts[-1] + 1, len(rows) + 1)])
        places = np.empty(len(rows), dtype=np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        tokens = np.concatenate([[0], np.cumsum(self.lengths[rows], dtype=np.int64)])
        return HomeEpoch(rows, cuts, places, tokens)

    def batch(self, epoch: int, number: int) -> Batch:
        """A home as its epoch has it; its step and totals are not those of any training step."""
        return self._source[MicroBatch(epoch, -1, 0, self.epoch(epoch).members(number), StepTotals(0, 0))]
