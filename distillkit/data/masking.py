"""Which tokens are predicted and what stands in their place: a pure function of (seed, epoch, row index)."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import numpy as np
from transformers import PreTrainedTokenizerFast

from distillkit.data.randomness import MASK_STREAM, generator
from distillkit.errors import ConfigError, DataError
from distillkit.types import IGNORE_INDEX

VALID_SEED = 20190910
"""Seed of the masks of held-out rows (always epoch 0): the same for every run, so that runs compare."""


class Shares(NamedTuple):
    """What every kind of masking has, and all that held-out masks depend on besides VALID_SEED.

    Attributes:
        probability: share of a row's tokens that are predicted, in (0, 1).
        mask_fraction: share of the predicted tokens shown as [MASK].
        random_fraction: share of the predicted tokens shown as a random token; the rest is shown as it is.
    """

    probability: float = 0.15
    mask_fraction: float = 0.8
    random_fraction: float = 0.1


class Masker(ABC):
    """A fixed number of predictions per row; a subclass says which tokens they are.

    A row of `length` tokens gets min(maskable, max_predictions, max(1, round(probability * length))) predictions:
    exactly so many with every kind of masking, so that the totals of an optimizer step follow from lengths, before any
    mask is drawn. Each becomes [MASK], a random token or stays, drawn for every token by itself.

    Source: the number is google-research/albert's (`create_masked_lm_predictions`) and, but for the limit, that of
    DistilBERT's code: 15% of all tokens, specials counted and never chosen; there fixed per batch, here per row.
    Smoothing is XLM's and DistilBERT's (`mlm_smoothing`, 0.7).

    Args:
        tokenizer: must have a mask token; it is not kept, so that data workers get a small copy. Random tokens are
            drawn from its non-special ids: never from the padded rows of a model's embedding matrix.
        probability, mask_fraction, random_fraction: see Shares.
        smoothing: tokens are chosen with weight max(count, 1) ** -smoothing, their counts in the corpus being told by
            `weighed`; None or 0: all alike.
        max_predictions: most predictions of a row; None: no limit.

    Raises:
        ConfigError: a value is out of range.
        DataError: the tokenizer has no mask token.

    Attributes:
        shares, smoothing: as given.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        probability: float = 0.15,
        mask_fraction: float = 0.8,
        random_fraction: float = 0.1,
        smoothing: float | None = None,
        max_predictions: int | None = None,
    ) -> None:
        self.shares = Shares(probability, mask_fraction, random_fraction)
        _check_shares(self.shares)
        _check_numbers(smoothing, max_predictions)
        if tokenizer.mask_token_id is None:
            raise DataError(
                "the tokenizer has no mask token",
                key="tokenizer.path",
                value=tokenizer.name_or_path,
                allowed="the tokenizer of a masked language model",
                fix="take the teacher's tokenizer",
            )
        self.smoothing = smoothing
        self._limit = np.iinfo(np.int64).max if max_predictions is None else max_predictions
        self._mask_id = tokenizer.mask_token_id
        special = np.unique(np.asarray(tokenizer.all_special_ids))
        known = np.unique(np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64))
        self._special = np.zeros(known[-1] + 1, dtype=bool)
        self._special[special] = True
        self._replacements = np.setdiff1d(known, special)
        self._weights: np.ndarray | None = None

    def weighed(self, counts: np.ndarray) -> Self:
        """This masker told how often each token stands in the corpus, which `mask` must know when there is smoothing.

        Args:
            counts: [V] int, of each id from 0 on; ids beyond were never seen.
        """
        told = copy.copy(self)
        seen = np.zeros(len(self._special))
        seen[: len(counts)] = counts[: len(seen)]
        told._weights = np.maximum(seen, 1) ** -float(self.smoothing or 0)
        return told

    def predictions(self, length: np.ndarray, maskable: np.ndarray) -> np.ndarray:
        """Number of predictions per row, known before any mask is drawn.

        Args:
            length: [N] int, tokens of each row, specials included, padding not.
            maskable: [N] int, how many of them are not special.

        Returns:
            [N] int64; halves round to even.
        """
        wanted = np.maximum(1, np.rint(self.shares.probability * np.asarray(length, dtype=np.float64)))
        return np.minimum(np.asarray(maskable, dtype=np.int64), np.minimum(wanted.astype(np.int64), self._limit))

    def mask(self, input_ids: np.ndarray, *, seed: int, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mask one row; the same arguments always give the same result, in any process.

        Args:
            input_ids: [T] int, without padding; special tokens may stand anywhere.
            seed: the run's seed, or VALID_SEED; taken modulo 2**64.
            epoch: of the data, from 0.
            index: of the row in its split.

        Returns:
            [T] int64 masked ids, and [T] int64 labels: the original id where predicted, IGNORE_INDEX elsewhere.
        """
        candidates, count = self._candidates(input_ids)
        rng = generator(seed, MASK_STREAM, epoch, index)
        chosen = self._choose(input_ids, candidates, count, rng)
        action = rng.random(count)
        drawn = self._replacements[rng.integers(len(self._replacements), size=count)]
        masked = np.array(input_ids, dtype=np.int64)
        labels = np.full(len(masked), IGNORE_INDEX, dtype=np.int64)
        labels[chosen] = masked[chosen]
        to_mask, to_random = self.shares.mask_fraction, self.shares.mask_fraction + self.shares.random_fraction
        masked[chosen] = np.where(action < to_mask, self._mask_id, np.where(action < to_random, drawn, masked[chosen]))
        return masked, labels

    def _candidates(self, input_ids: np.ndarray) -> tuple[np.ndarray, int]:
        """Places [M] of the tokens that are not special, and how many of them are to be predicted."""
        candidates = np.flatnonzero(~self._special[input_ids])
        return candidates, int(self.predictions(np.asarray(len(input_ids)), np.asarray(len(candidates))))

    @abstractmethod
    def _choose(
        self, input_ids: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Places [count] to predict, out of the [M] candidates, drawn from `rng` alone."""

    def _token_weights(self, ids: np.ndarray) -> np.ndarray | None:
        """[M] weights of [M] ids, or None when all are alike."""
        if not self.smoothing:
            return None
        if self._weights is None:
            raise RuntimeError("smoothing needs the corpus's token counts: take weighed(counts)")
        return self._weights[ids]


class TokenMasker(Masker):
    """BERT's masking: tokens chosen without replacement, each by itself; see Masker for the arguments."""

    def _choose(
        self, input_ids: np.ndarray, candidates: np.ndarray, count: int, rng: np.random.Generator
    ) -> np.ndarray:
        return candidates[shuffled(len(candidates), self._token_weights(input_ids[candidates]), rng)[:count]]


def shuffled(size: int, weights: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """The numbers below `size` in random order: each next one drawn in proportion to [size] weights among the rest.

    Source: Efraimidis and Spirakis 2006, in its exponential form: as drawing one after the other without replacement,
    which torch.multinomial in DistilBERT's code does.
    """
    if weights is None:
        return rng.permutation(size)
    return np.argsort(rng.standard_exponential(size) / weights, kind="stable")


def _check_shares(shares: Shares) -> None:
    most_random = 1.0 - shares.mask_fraction
    for key, fine, allowed in (
        ("probability", 0 < shares.probability < 1, "(0, 1)"),
        ("mask_fraction", 0 <= shares.mask_fraction <= 1, "[0, 1]"),
        (
            "random_fraction",
            # 1 - 0.8 is a little less than 0.2, which must still be accepted
            0 <= shares.random_fraction <= most_random or math.isclose(shares.random_fraction, most_random),
            f"[0, {most_random:g}]",
        ),
    ):
        if not fine:
            raise ConfigError(
                "not a share of tokens",
                key=f"masking.{key}",
                value=getattr(shares, key),
                allowed=allowed,
                fix=f"set masking.{key}={getattr(Shares(), key)}",
            )


def _check_numbers(smoothing: float | None, max_predictions: int | None) -> None:
    for key, value, fine, what, allowed in (
        ("smoothing", smoothing, smoothing is None or 0 <= smoothing < math.inf, "not an exponent", "[0, inf), null"),
        ("max_predictions", max_predictions, max_predictions is None or max_predictions >= 1,
         "not a number of tokens", ">= 1, null"),
    ):  # fmt: skip
        if not fine:
            raise ConfigError(what, key=f"masking.{key}", value=value, allowed=allowed, fix=f"set masking.{key}=null")
