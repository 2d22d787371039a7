"""Rows of two segments: consecutive sentences of one document, shown in their order or swapped.

Nothing but the text tells which of the two segments of a row comes first. So rows hold whole sentences, since a segment
that begins in the middle of one would; and the documents are filled from the front and from the back in turns. Filled
from the front alone, a row begins with the sentence that the row before had no room for, a long one: on IMDb reviews,
in rows of 128 tokens, the lengths of the segments then give the order away in 55% of the rows (51% filled in turns).

Source: Lan et al. 2019, section 3.1, and create_pretraining_data of its code. There a row that is too long is cut off
at either end, and rows are filled from the front; a tenth of them is made short on purpose, here ends of documents are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from distillkit.data.packing import Ragged
from distillkit.data.randomness import CUT_STREAM, SWAP_STREAM, generator
from distillkit.data.tokenization import Frame


class PairPacker:
    """Turns documents into rows [CLS] A [SEP] B [SEP] of at most max_length tokens and counts what is left out.

    A and B are one or more whole sentences, cut apart at one of the sentence ends within the row, each as likely.

    Args:
        frame: the ids of [CLS] and [SEP].
        max_length: tokens of a row, specials included.

    Attributes:
        counts: documents seen, empty_documents (without a token), single_sentence_documents, sentences, tokens of the
            documents, rows made, and dropped_tokens, which are in no row: documents of one sentence, and sentences that
            fit into no row beside one of their neighbours.
    """

    def __init__(self, frame: Frame, max_length: int) -> None:
        self._frame, self._room = frame, max_length - 3
        self._draws = generator(0, CUT_STREAM, 0)  # the n-th row takes the n-th number, in whatever batches they come
        names = ("documents", "empty_documents", "single_sentence_documents", "sentences", "tokens", "dropped_tokens")
        self.counts = dict.fromkeys((*names, "rows"), 0)

    def pack(self, documents: Iterable[Ragged]) -> Iterator[Ragged]:
        """Yield the rows in order, their parts the two segments; the counts are complete when this is exhausted.

        Args:
            documents: their parts are the sentences.
        """
        for values, lengths, sentences in documents:
            assert sentences is not None
            ends = np.concatenate([[0], np.cumsum(sentences)])
            stops = np.searchsorted(ends, np.cumsum(lengths)).tolist()
            bounds: list[tuple[int, int, int]] = []
            for start, stop in pairwise([0, *stops]):
                bounds += self._document(sentences[start:stop].tolist(), start)
            self.counts["tokens"] += len(values)
            self.counts["sentences"] += len(sentences)
            self.counts["rows"] += len(bounds)
            packed = self._framed(values, ends[np.asarray(bounds, dtype=np.int64).reshape(-1, 3)])
            self.counts["dropped_tokens"] += len(values) - (len(packed.values) - 3 * len(bounds))
            yield packed

    def _document(self, lengths: Sequence[int], first: int) -> list[tuple[int, int, int]]:
        """Sentence numbers of each row of a document: where it begins, where it is cut, where it ends."""
        backwards = self.counts["documents"] % 2 == 1
        self.counts["documents"] += 1
        self.counts["empty_documents"] += not lengths
        self.counts["single_sentence_documents"] += len(lengths) == 1
        runs = _runs(lengths[::-1] if backwards else lengths, self._room)
        if backwards:
            runs = [(len(lengths) - stop, len(lengths) - start) for start, stop in reversed(runs)]
        draws = self._draws.random(len(runs)).tolist()
        return [
            (first + start, first + start + 1 + int(draw * (stop - start - 1)), first + stop)
            for (start, stop), draw in zip(runs, draws, strict=True)
        ]

    def _framed(self, values: np.ndarray, places: np.ndarray) -> Ragged:
        """The rows of [R, 3] places of tokens: begin, cut and end of each."""
        start, end = self._frame
        pieces: list[np.ndarray | list[int]] = []
        for begin, cut, stop in places.tolist():
            pieces += [[start], values[begin:cut], [end], values[cut:stop], [end]]
        segments = np.diff(places, axis=1) + np.array([2, 1])  # A with [CLS] and [SEP], B with [SEP]
        joined = np.concatenate([np.empty(0, dtype=np.int32), *pieces], dtype=np.int32, casting="unsafe")
        return Ragged(joined, segments.sum(axis=1), segments.ravel())


def _runs(lengths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Runs of two or more consecutive sentences, [start, stop) each, as many in each as fit into the room.

    A sentence that would be alone takes the one before it along, where the run before can spare it.
    """
    runs: list[list[int]] = []
    total = room
    for number, length in enumerate(lengths):
        total += length
        if total > room:
            runs.append([number, number])
            total = length
        runs[-1][1] += 1
    for before, own in pairwise(runs):
        alone, spare = own[1] - own[0] == 1, before[1] - before[0] > 2
        if alone and spare and lengths[own[0] - 1] + lengths[own[0]] <= room:
            before[1] -= 1
            own[0] -= 1
    return [(start, stop) for start, stop in runs if stop - start > 1]


def shown(row: np.ndarray, second: int, *, seed: int, epoch: int, index: int) -> tuple[np.ndarray, int, bool]:
    """A row as it is shown: its segments in order or swapped, each in half of the cases.

    Args:
        row: [T] int ids, [CLS] A [SEP] B [SEP].
        second: place of B's first token.
        seed: the run's seed, or VALID_SEED; taken modulo 2**64.
        epoch: of the masks, from 0.
        index: of the row in its split.

    Returns:
        The row, the place of its second segment's first token, and whether it is swapped: [CLS] B [SEP] A [SEP].
    """
    if generator(seed, SWAP_STREAM, epoch, index).random() < 0.5:
        return row, second, False
    return np.concatenate([row[:1], row[second:], row[1:second]]), len(row) - second + 1, True
