"""Which tokens are predicted and what stands in their place: a pure function of (seed, epoch, row index)."""

from __future__ import annotations

import math

import numpy as np
from transformers import PreTrainedTokenizerFast

from distillkit.data.randomness import MASK_STREAM, generator
from distillkit.errors import ConfigError, DataError
from distillkit.types import IGNORE_INDEX

VALID_SEED = 20190910
"""Seed of the masks of held-out rows (always epoch 0): the same for every run, so that runs compare."""


class TokenMasker:
    """BERT's masking with a fixed number of predictions per row.

    A row of `length` tokens gets k = min(maskable, max(1, round(probability * length))) predictions, chosen uniformly
    without replacement among its maskable tokens; each becomes [MASK], a random token or stays.

    Source: REFERENCE semantics of DistilBERT's code: 15% of all tokens, specials counted and never chosen. There the
    number is fixed per batch, here per row, so that the totals of an optimizer step follow from lengths alone.

    Args:
        tokenizer: must have a mask token; it is not kept, so that data workers get a small copy. Random tokens are
            drawn from its non-special ids: never from the padded rows of a model's embedding matrix.
        probability: share of a row's tokens that are predicted, in (0, 1).
        mask_fraction: share of the predicted tokens shown as [MASK].
        random_fraction: share of the predicted tokens shown as a random token; the rest is shown as it is.

    Raises:
        ConfigError: a share is out of range.
        DataError: the tokenizer has no mask token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        probability: float = 0.15,
        mask_fraction: float = 0.8,
        random_fraction: float = 0.1,
    ) -> None:
        _check_shares(probability, mask_fraction, random_fraction)
        if tokenizer.mask_token_id is None:
            raise DataError(
                "the tokenizer has no mask token",
                key="tokenizer.path",
                value=tokenizer.name_or_path,
                allowed="the tokenizer of a masked language model",
                fix="take the teacher's tokenizer",
            )
        self.probability = probability
        self._thresholds = (mask_fraction, mask_fraction + random_fraction)
        self._mask_id = tokenizer.mask_token_id
        special = np.unique(np.asarray(tokenizer.all_special_ids))
        known = np.unique(np.fromiter(tokenizer.get_vocab().values(), dtype=np.int64))
        self._special = np.zeros(known[-1] + 1, dtype=bool)
        self._special[special] = True
        self._replacements = np.setdiff1d(known, special)

    def predictions(self, length: np.ndarray, maskable: np.ndarray) -> np.ndarray:
        """Number of predictions per row, known before any mask is drawn.

        Args:
            length: [N] int, tokens of each row, specials included, padding not.
            maskable: [N] int, how many of them are not special.

        Returns:
            [N] int64; halves round to even.
        """
        wanted = np.maximum(1, np.rint(self.probability * np.asarray(length, dtype=np.float64)))
        return np.minimum(np.asarray(maskable, dtype=np.int64), wanted.astype(np.int64))

    def mask(self, input_ids: np.ndarray, *, seed: int, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mask one row; the same arguments always give the same result, in any process.

        Args:
            input_ids: [T] int, without padding.
            seed: the run's seed, or VALID_SEED; taken modulo 2**64.
            epoch: of the data, from 0.
            index: of the row in its split.

        Returns:
            [T] int64 masked ids, and [T] int64 labels: the original id where predicted, IGNORE_INDEX elsewhere.
        """
        candidates = np.flatnonzero(~self._special[input_ids])
        count = int(self.predictions(np.asarray(len(input_ids)), np.asarray(len(candidates))))
        rng = generator(seed, MASK_STREAM, epoch, index)
        chosen = rng.permutation(candidates)[:count]
        action = rng.random(count)
        drawn = self._replacements[rng.integers(len(self._replacements), size=count)]
        masked = np.array(input_ids, dtype=np.int64)
        labels = np.full(len(masked), IGNORE_INDEX, dtype=np.int64)
        labels[chosen] = masked[chosen]
        to_mask, to_random = self._thresholds
        masked[chosen] = np.where(action < to_mask, self._mask_id, np.where(action < to_random, drawn, masked[chosen]))
        return masked, labels


def _check_shares(probability: float, mask_fraction: float, random_fraction: float) -> None:
    most_random = 1.0 - mask_fraction
    for key, share, fine, allowed, fix in (
        ("probability", probability, 0 < probability < 1, "(0, 1)", 0.15),
        ("mask_fraction", mask_fraction, 0 <= mask_fraction <= 1, "[0, 1]", 0.8),
        (
            "random_fraction",
            random_fraction,
            # 1 - 0.8 is a little less than 0.2, which must still be accepted
            0 <= random_fraction <= most_random or math.isclose(random_fraction, most_random),
            f"[0, {most_random:g}]",
            0.1,
        ),
    ):
        if not fine:
            raise ConfigError(
                "not a share of tokens",
                key=f"masking.{key}",
                value=share,
                allowed=allowed,
                fix=f"set masking.{key}={fix}",
            )
