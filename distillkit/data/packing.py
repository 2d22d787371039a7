"""Documents to rows of at most max_length tokens, as a stream: memory does not grow with the corpus."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from distillkit.data.tokenization import Frame

_ROWS_PER_BATCH = 4096


class Ragged(NamedTuple):
    """Some documents, or some rows.

    Attributes:
        values: [sum of lengths] int32 token ids, one after the other.
        lengths: [N] int, tokens of each.
        parts: int, tokens of each part of the first, of the second ...: sentences of a document, the two segments of a
            row, special tokens included; None where they are not known.
    """

    values: np.ndarray
    lengths: np.ndarray
    parts: np.ndarray | None = None


class Packer:
    """Turns documents into rows and counts what is left out.

    Args:
        packing: "full": documents joined by [SEP] are cut into blocks [CLS] + max_length - 2 tokens + [SEP], so a
            block is exactly max_length tokens and may hold parts of several documents (RoBERTa's FULL-SENTENCES).
            "none": [CLS] document [SEP], one a row, cut off at max_length.
        frame: the ids of [CLS] and [SEP].
        max_length: tokens of a row, specials included, at least 3.

    Attributes:
        counts: documents seen, empty_documents (without a token), tokens of the documents, rows made, and
            dropped_tokens, which are in no row: the end of the stream ("full", separators counted), or those cut off.
    """

    def __init__(self, packing: str, frame: Frame, max_length: int) -> None:
        self._packing, self._frame, self._room = packing, frame, max_length - 2
        self.counts = dict.fromkeys(("documents", "empty_documents", "tokens", "dropped_tokens", "rows"), 0)

    def pack(self, documents: Iterable[Ragged]) -> Iterator[Ragged]:
        """Yield the rows in order; the counts are complete when the iterator is exhausted."""
        for packed in (self._full if self._packing == "full" else self._single)(self._counted(documents)):
            self.counts["rows"] += len(packed.lengths)
            yield packed

    def _counted(self, documents: Iterable[Ragged]) -> Iterator[Ragged]:
        for values, lengths, _ in documents:
            self.counts["documents"] += len(lengths)
            self.counts["tokens"] += len(values)
            self.counts["empty_documents"] += int((lengths == 0).sum())
            yield Ragged(values, lengths[lengths > 0])

    def _full(self, documents: Iterable[Ragged]) -> Iterator[Ragged]:
        rest = np.empty(0, dtype=np.int32)
        for values, lengths, _ in documents:
            stream = np.concatenate([rest, np.insert(values, np.cumsum(lengths), self._frame.end)])
            blocks, rest = np.split(stream, [len(stream) // self._room * self._room])
            inside = blocks.reshape(-1, self._room)
            rows = np.pad(inside, ((0, 0), (1, 1)))
            rows[:, 0], rows[:, -1] = self._frame
            yield Ragged(rows.ravel(), np.full(len(rows), self._room + 2))
        self.counts["dropped_tokens"] = len(rest)

    def _single(self, documents: Iterable[Ragged]) -> Iterator[Ragged]:
        for values, lengths, _ in documents:
            kept = np.minimum(lengths, self._room)
            self.counts["dropped_tokens"] += int((lengths - kept).sum())
            position = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            ends = np.cumsum(kept)
            around = np.stack([ends - kept, ends], axis=1).ravel()
            framed = np.insert(values[position < self._room], around, np.tile(self._frame, len(kept)))
            yield Ragged(framed, kept + 2)


def write_rows(rows: Iterable[Ragged], path: Path, *, special_ids: Iterable[int]) -> None:
    """Write rows to an Arrow stream file that datasets.Dataset.from_file maps, and flush it to the disk.

    Columns: input_ids (int32 list), length (int32), maskable (int32: tokens that are not special), and where rows have
    two parts second (int32: place of the first token of the second).

    Args:
        rows: the rows, a part at a time.
        path: of the new file.
        special_ids: ids that are never predicted.
    """
    special = np.asarray(sorted(special_ids), dtype=np.int32)
    tables = _merged(_record_batch(part, special) for part in rows if len(part.lengths))
    with path.open("wb") as stream:
        if (first := next(tables, None)) is not None:
            with pa.ipc.new_stream(stream, first.schema) as writer:
                for table in itertools.chain([first], tables):
                    writer.write_table(table)
        stream.flush()
        os.fsync(stream.fileno())


def _record_batch(rows: Ragged, special: np.ndarray) -> pa.RecordBatch:
    offsets = np.concatenate([[0], np.cumsum(rows.lengths)])
    maskable = np.add.reduceat(~np.isin(rows.values, special), offsets[:-1], dtype=np.int32)
    input_ids = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(rows.values, pa.int32()))
    columns = {"input_ids": input_ids, "length": pa.array(rows.lengths, pa.int32()), "maskable": pa.array(maskable)}
    if rows.parts is not None:
        columns["second"] = pa.array(rows.parts[::2], pa.int32())
    return pa.record_batch(columns)


def _merged(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of one chunk with thousands of rows: opening a file costs time for every chunk in it."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _ROWS_PER_BATCH:
            yield pa.Table.from_batches(held).combine_chunks()
            held = []
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
