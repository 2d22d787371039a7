"""From the specification of a micro-batch to its tensors."""

from __future__ import annotations

from collections.abc import Iterator

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from distillkit.data.masking import Masker
from distillkit.data.plan import BatchPlan, MicroBatch, padded_length
from distillkit.data.sentence_order import shown
from distillkit.layout import lay_out
from distillkit.types import IGNORE_INDEX, Batch


class MaskedRows(Dataset[Batch]):
    """Map-style data set whose index is a MicroBatch: reads its rows from Arrow, orders, masks and pads them.

    Nothing here is random or kept between calls, so any number of workers gives the same batches.
    """

    def __init__(
        self, rows: datasets.Dataset, masker: Masker, *, seed: int, max_length: int, pad_token_id: int
    ) -> None:
        """Hold the memory-mapped rows; a worker process maps the same pages.

        Args:
            rows: of a PreparedData split, with a column input_ids; with a column second too, rows have two segments.
            masker: draws the masks.
            seed: of the masks, and of the order of segments.
            max_length: no batch is padded beyond it.
            pad_token_id: id at positions that are not attended.
        """
        self._pairs = "second" in rows.column_names
        self._rows = rows.select_columns(["input_ids", *(["second"] if self._pairs else [])]).with_format("arrow")
        self._masker, self._seed, self._max_length, self._pad_token_id = masker, seed, max_length, pad_token_id

    def __len__(self) -> int:
        """Number of rows (an index is a MicroBatch of them)."""
        return len(self._rows)

    def __getitem__(self, spec: MicroBatch) -> Batch:
        """Build the batch [B, T], T the longest row rounded up to a multiple of 8 but at most max_length."""
        table = self._rows[spec.rows.tolist()]
        column = table.column("input_ids").combine_chunks()
        lengths = column.value_lengths().to_numpy()
        rows = np.split(column.flatten().to_numpy(), np.cumsum(lengths)[:-1])
        second: np.ndarray | None = None
        if self._pairs:
            rows, second, swapped = self._in_order(rows, table.column("second").to_pylist(), spec)
        width = int(padded_length(lengths.max(), self._max_length))
        input_ids = np.full((len(rows), width), self._pad_token_id, dtype=np.int64)
        labels = np.full((len(rows), width), IGNORE_INDEX, dtype=np.int64)
        for line, (row, index) in enumerate(zip(rows, spec.rows.tolist(), strict=True)):
            masked, label = self._masker.mask(row, seed=self._seed, epoch=spec.epoch, index=index)
            input_ids[line, : len(row)], labels[line, : len(row)] = masked, label
        attended = np.arange(width) < lengths[:, None]
        mask = None if attended.all() else torch.from_numpy(attended.astype(np.int64))
        target = torch.from_numpy(labels)
        batch = Batch(
            torch.from_numpy(input_ids),
            mask,
            target,
            spec.step,
            spec.micro,
            spec.totals,
            lay_out(mask, target),
            tuple(spec.rows.tolist()),
            spec.epoch,
        )
        if second is None:
            return batch
        segments = attended & (np.arange(width) >= second[:, None])
        return batch._replace(segments=torch.from_numpy(segments.astype(np.int64)), swapped=torch.from_numpy(swapped))

    def _in_order(
        self, rows: list[np.ndarray], second: list[int], spec: MicroBatch
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """The rows as this epoch shows them, where their second segments begin [B], and which are swapped [B]."""
        each = zip(rows, second, spec.rows.tolist(), strict=True)
        found = [shown(row, at, seed=self._seed, epoch=spec.epoch, index=index) for row, at, index in each]
        order, places, swaps = zip(*found, strict=True)
        return list(order), np.asarray(places), np.asarray(swaps, dtype=np.int64)


class PlanSampler(Sampler[MicroBatch]):
    """One rank's micro-batches from start_batch to end_batch, once.

    A second full pass yields nothing: the stream is the whole rest of training, so a trainer that counts epochs of
    its own finds them empty instead of training on the same batches again.
    """

    def __init__(self, plan: BatchPlan, *, rank: int, start_batch: int, end_batch: int | None) -> None:
        """See BatchPlan.micro_batches for the arguments."""
        self._plan, self._rank, self._start, self._end = plan, rank, start_batch, end_batch
        self._finished = False

    def __iter__(self) -> Iterator[MicroBatch]:
        """Yield the micro-batches in order."""
        if self._finished:
            return
        for done, spec in enumerate(self._plan.micro_batches(self._rank, self._start, self._end), self._start + 1):
            self._finished = done == self._end  # before the last one: a trainer that knows the length asks for no more
            yield spec

    def __len__(self) -> int:
        """Remaining micro-batches of this rank; TypeError when the stream has no end."""
        if self._end is None:
            raise TypeError("the stream has no end")
        return max(0, self._end - self._start)
