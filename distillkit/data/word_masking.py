"""Masks over whole words, and over n-grams of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from distillkit.data.masking import Masker, shuffled
from distillkit.data.randomness import MASK_STREAM, generator
from distillkit.data.word_starts import WordStarts
from distillkit.errors import ConfigError


class Span(NamedTuple):
    """Neighbouring whole words that are predicted together.

    Attributes:
        words: how many; 0 for the first tokens of a word that is cut.
        start: place of their first token in the row.
        end: the place after their last.
    """

    words: int
    start: int
    end: int


class WordMasker(Masker):
    """Predicts all tokens of a word together, or with max_ngram > 1 those of n neighbouring words.

    Words come in random order, with smoothing by the mean weight of their tokens. With max_ngram = 1 each is taken
    unless it exceeds what is left of the row's predictions: BERT's whole-word masking. Else n is drawn with
    p(n) = (1/n) / (1 + 1/2 + ... + 1/max_ngram), and n words are taken from the first word in that order on where they
    are free and neighbours (no special token between them: a span never crosses [SEP]), shortened by whole words to
    what is left: ALBERT's n-gram masking.

    Departures from google-research/albert, `create_masked_lm_predictions`:

    - There n is drawn anew for each word tried, and a span that meets a taken word is given up: long spans more often,
      so that those in the text are shorter than p(n) says. Here n waits for a place, and but for the last span of a row
      the text has p(n).
    - There a row in which no word fits into what is left gets fewer predictions. Here the first tokens of one more
      word fill it up, so that the number is known beforehand (see Masker). That cuts one word at most, and only where
      all words that are left have several tokens.
    - There the second and third word may lie beyond [SEP].
    - There punctuation is a word of its own. Here it is where the pre-tokenizer cuts before it, as BERT's and RoBERTa's
      do and ALBERT's does not (see WordStarts).

    Args:
        tokenizer: as for Masker; its pieces show where words begin (see WordStarts).
        probability, mask_fraction, random_fraction, smoothing, max_predictions: see Masker.
        max_ngram: most words of a span; the paper's is 3.

    Raises:
        ConfigError: a value is out of range.
        DataError: the tokenizer has no mask token, or does not show where words begin.

    Source: Lan et al. 2019, section 4.1 (arXiv 1909.11942); google-research/bert, whole-word masking.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        probability: float = 0.15,
        mask_fraction: float = 0.8,
        random_fraction: float = 0.1,
        smoothing: float | None = None,
        max_predictions: int | None = None,
        max_ngram: int = 1,
    ) -> None:
        super().__init__(tokenizer, probability, mask_fraction, random_fraction, smoothing, max_predictions)
        if max_ngram < 1:
            raise ConfigError(
                "not a number of words", key="masking.max_ngram", value=max_ngram, allowed=">= 1",
                fix="set masking.max_ngram=3",
            )  # fmt: skip
        self._word_starts = WordStarts(tokenizer)
        chances = 1 / np.arange(1, max_ngram + 1)
        self._bounds = np.cumsum(chances / chances.sum())[:-1]

    def spans(self, input_ids: np.ndarray, *, seed: int, epoch: int, index: int) -> list[Span]:
        """The spans that `mask` predicts for the same arguments, in the order of their drawing."""
        candidates, count = self._candidates(input_ids)
        return self._draw(input_ids, candidates, count, generator(seed, MASK_STREAM, epoch, index))

    def _choose(
        self, input_ids: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        spans = self._draw(input_ids, candidates, count, rng)
        return np.array([place for _, start, end in spans for place in range(start, end)], dtype=np.int64)

    def _draw(self, input_ids: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator) -> list[Span]:
        if not count:
            return []
        heads = np.flatnonzero(self._word_starts(input_ids)[candidates])  # where words begin, among the candidates
        ends = np.append(heads[1:], len(candidates))
        weights = self._token_weights(input_ids[candidates])
        if weights is not None:
            weights = np.add.reduceat(weights, heads) / (ends - heads)
        order = shuffled(len(heads), weights, rng).tolist()
        starts = candidates[heads]
        words = _Words(starts.tolist(), (starts + ends - heads).tolist(), (starts - heads).tolist(), count)
        if len(self._bounds):
            drawn = np.searchsorted(self._bounds, rng.random(count), side="right") + 1  # a span has a token at least
            words.take(order, iter(drawn.tolist()))
        words.take(order, repeat(1))
        words.cut(order)
        return words.spans


class _Words:
    """The words of a row, of which some are taken.

    Args:
        starts: place of each word's first token.
        ends: the place after each word's last.
        borders: how many special tokens stand before each word.
        room: tokens that may be taken.

    Attributes:
        spans: what was taken.
    """

    def __init__(self, starts: Sequence[int], ends: Sequence[int], borders: Sequence[int], room: int) -> None:
        self.spans: list[Span] = []
        self._starts, self._ends, self._borders, self._room = starts, ends, borders, room
        self._taken = bytearray(len(starts))

    def take(self, order: Iterable[int], lengths: Iterator[int]) -> None:
        """Take spans of so many words, each at the first word of the order with a place for it, while there is room.

        A span that exceeds the room is shortened by whole words; a word that exceeds it is passed over.
        """
        starts, ends, borders, taken, room = self._starts, self._ends, self._borders, self._taken, self._room
        wanted = next(lengths)
        for word in order if room else ():
            after = word + wanted
            if after > len(starts) or 1 in taken[word:after] or borders[word] != borders[after - 1]:
                continue
            start = starts[word]
            while after > word and ends[after - 1] - start > room:
                after -= 1
            if after == word:
                continue
            number, end = after - word, ends[after - 1]
            self.spans.append(Span(number, start, end))
            taken[word:after] = b"\1" * number
            room -= end - start
            if not room:
                break
            wanted = next(lengths)
        self._room = room

    def cut(self, order: Iterable[int]) -> None:
        """Fill what room is left with the first tokens of the first free word, which has more."""
        if self._room:
            start = self._starts[next(word for word in order if not self._taken[word])]
            self.spans.append(Span(0, start, start + self._room))
