"""Where a split's cached states lie: which rows are stored at all, and at which bytes of their store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from distillkit.data.homes import Homes
from distillkit.rowstore import HEAD_BYTES, RowStore
from distillkit.types import Batch

TRAIN, VALID = "train", "valid"


class Room(NamedTuple):
    """How much of the states there is room for: held-out rows first, then epoch after epoch of masks.

    Attributes:
        most: bytes allowed in all.
        valid: bytes of the held-out rows.
        epoch: bytes of the training rows with the masks of one epoch.
    """

    most: int
    valid: int
    epoch: int

    @classmethod
    def of(cls, homes: Mapping[str, Homes], token_bytes: int, max_gb: float) -> Room:
        """For all rows of the splits, `token_bytes` a token."""
        valid, epoch = (
            HEAD_BYTES * len(homes[name].lengths) + token_bytes * int(homes[name].lengths.sum(dtype=np.int64))
            if name in homes
            else 0
            for name in (VALID, TRAIN)
        )
        return cls(int(max_gb * 1e9), valid, epoch)

    def left(self, split: str, epoch: int) -> int:
        """Bytes of a split with the masks of an epoch that may be stored; a function of nothing that a run changes."""
        return self.most if split == VALID else self.most - self.valid - epoch * self.epoch

    def needed(self, epochs: int) -> int:
        """Bytes that so many epochs of masks fill."""
        return min(self.most, self.valid + epochs * self.epoch)

    def read_share(self, epochs: float, mask_epochs: int | None) -> float:
        """Share of its training rows that a run of so many epochs reads, when it begins with an empty cache."""
        again = max(0.0, epochs - mask_epochs) if mask_epochs else 0.0
        fitting = (
            [min(1.0, max(0.0, self.left(TRAIN, m) / self.epoch)) for m in range(mask_epochs or 0)] if again else []
        )
        return again / epochs * sum(fitting) / max(1, len(fitting))


class Rows(NamedTuple):
    """The rows of a micro-batch in the order of its layout.

    Attributes:
        lines: [B] of each in the batch.
        sequences: [B] its index in the split.
        homes: [B] the number of its home; -1 where it is not to be stored.
        starts: [B] bytes before it in the store.
        bounds: [B + 1] tokens before it in the batch.
    """

    lines: np.ndarray
    sequences: np.ndarray
    homes: np.ndarray
    starts: np.ndarray
    bounds: np.ndarray


class Split:
    """One split's homes and their places in a store.

    Args:
        name: TRAIN or VALID.
        store: of its states.
        homes: of its rows.
        token_bytes: of one token's states.
        room: for the states.
    """

    def __init__(self, name: str, store: RowStore, homes: Homes, token_bytes: int, room: Room) -> None:
        self.name, self.store, self.homes, self.token_bytes, self.room = name, store, homes, token_bytes, room

    def rows(self, batch: Batch) -> Rows:
        """Where the rows of a micro-batch are, in memory and on disk."""
        sequences = np.asarray(batch.sequences)
        lines = np.argsort(self.homes.lengths[sequences], kind="stable")
        sequences = sequences[lines]
        epoch = self.homes.epoch(batch.epoch)
        places = epoch.places[sequences]
        homes = epoch.batch_of(places)
        ends = epoch.cuts[homes + 1]  # a home is stored whole or not at all
        fits = self._start(epoch.tokens[ends], ends) <= self.room.left(self.name, batch.epoch)
        bounds = np.concatenate([[0], np.cumsum(self.homes.lengths[sequences], dtype=np.int64)])
        return Rows(
            lines,
            sequences,
            np.where(fits, homes, -1),
            self._start(epoch.tokens[places], places),
            bounds,
        )

    def _start(self, tokens: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Bytes of so many rows of so many tokens in all."""
        return tokens * self.token_bytes + rows.astype(np.int64) * HEAD_BYTES
