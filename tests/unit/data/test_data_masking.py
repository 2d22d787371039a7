"""Masks: how many, where, what, and always the same."""

from __future__ import annotations

import numpy as np
import pytest

from distillkit.data import TokenMasker
from distillkit.errors import ConfigError, DataError
from distillkit.types import IGNORE_INDEX

MASK, SPECIAL = 4, (0, 1, 2, 3, 4)


def row_of(length: int, seed: int = 0) -> np.ndarray:
    """[CLS] words, a [SEP] and an [UNK] among them, [SEP]."""
    row = np.random.default_rng(seed).integers(5, 100, size=length).astype(np.int32)
    row[[0, length // 3, length // 2, -1]] = 2, 3, 1, 3
    return row


def test_mask_predicts_the_fixed_number_of_ordinary_tokens_when_rows_differ(tokenizer) -> None:
    masker = TokenMasker(tokenizer)
    for index, length in enumerate([8, 9, 20, 50, 128, 512]):
        row = row_of(length, index)
        masked, labels = masker.mask(row, seed=1, epoch=0, index=index)
        predicted = labels != IGNORE_INDEX
        assert predicted.sum() == masker.predictions(np.asarray([length]), np.asarray([length - 4]))[0]
        assert predicted.sum() == max(1, round(0.15 * length))
        assert not np.isin(row[predicted], SPECIAL).any()
        assert (labels[predicted] == row[predicted]).all()
        assert (masked[~predicted] == row[~predicted]).all()
        assert masked.dtype == labels.dtype == np.int64


def test_predictions_follow_the_rule_when_rows_are_short_or_special(tokenizer) -> None:
    masker = TokenMasker(tokenizer, probability=0.15)
    lengths, maskable = np.asarray([3, 3, 10, 100, 100, 30]), np.asarray([1, 0, 8, 98, 7, 28])
    assert masker.predictions(lengths, maskable).tolist() == [1, 0, 2, 15, 7, 4]  # 1.5 -> 2, 4.5 -> 4: half to even
    masked, labels = masker.mask(np.asarray([2, 1, 3]), seed=0, epoch=0, index=0)
    assert (masked.tolist(), labels.tolist()) == ([2, 1, 3], [IGNORE_INDEX] * 3)


def test_mask_depends_on_seed_epoch_and_index_alone_when_called_again(tokenizer, make_tokenizer) -> None:
    row = row_of(128)
    base = {"seed": 1, "epoch": 2, "index": 3}
    first = TokenMasker(tokenizer).mask(row, **base)
    other = TokenMasker(make_tokenizer())
    other.mask(row_of(64), seed=9, epoch=9, index=9)
    assert all(np.array_equal(a, b) for a, b in zip(first, other.mask(row, **base), strict=True))
    for change in ({"seed": 2}, {"epoch": 3}, {"index": 4}, {"seed": 3, "index": 1}, {"seed": -1}):
        assert not np.array_equal(first[1], other.mask(row, **{**base, **change})[1])


def test_mask_shows_80_10_10_and_every_position_alike_when_drawn_often(tokenizer) -> None:
    masker, row, draws = TokenMasker(tokenizer), row_of(64), 4000
    shown, hits = [], np.zeros(64)
    for index in range(draws):
        masked, labels = masker.mask(row, seed=5, epoch=0, index=index)
        chosen = labels != IGNORE_INDEX
        hits += chosen
        shown.append(masked[chosen])
    tokens = np.concatenate(shown)
    originals = np.concatenate(
        [row[masker.mask(row, seed=5, epoch=0, index=i)[1] != IGNORE_INDEX] for i in range(draws)]
    )
    count = len(tokens)
    assert count == draws * 10
    # a random token equals the original once in 95
    expected = {"mask": 0.8, "random": 0.1 * 94 / 95, "keep": 0.1 + 0.1 / 95}
    masked, kept = tokens == MASK, tokens == originals
    seen = {"mask": masked.mean(), "keep": kept.mean(), "random": (~masked & ~kept).mean()}
    for name, share in expected.items():
        assert abs(seen[name] - share) < 4 * np.sqrt(share * (1 - share) / count), name
    ordinary = np.flatnonzero(~np.isin(row, SPECIAL))
    assert hits[np.isin(row, SPECIAL)].sum() == 0
    chi_square = ((hits[ordinary] - count / 60) ** 2 / (count / 60)).sum()
    assert chi_square < 100  # 59 degrees of freedom: once in a thousand
    drawn = np.bincount(tokens[~masked & ~kept], minlength=100)
    assert drawn[list(SPECIAL)].sum() == 0
    assert (drawn[5:] > 0).all()
    assert len(drawn) == 100


def test_masker_shows_what_it_is_told_when_fractions_change(tokenizer) -> None:
    row = row_of(100)
    masked, labels = TokenMasker(tokenizer, 0.5, mask_fraction=1.0, random_fraction=0.0).mask(
        row, seed=0, epoch=0, index=0
    )
    assert (masked[labels != IGNORE_INDEX] == MASK).all()
    assert (labels != IGNORE_INDEX).sum() == 50
    masked, _ = TokenMasker(tokenizer, 0.5, mask_fraction=0.0, random_fraction=0.0).mask(row, seed=0, epoch=0, index=0)
    assert (masked == row).all()


@pytest.mark.parametrize("probability", [0, 1, -0.1, 1.5, float("nan")])
def test_masker_refuses_the_probability_when_out_of_range(tokenizer, probability: float) -> None:
    with pytest.raises(ConfigError, match=r"masking\.probability=.*allowed: \(0, 1\)"):
        TokenMasker(tokenizer, probability)


def test_masker_refuses_fractions_when_they_exceed_one(tokenizer) -> None:
    TokenMasker(tokenizer, 0.15, 0.8, 0.2)
    with pytest.raises(ConfigError, match=r"masking\.random_fraction=0\.3"):
        TokenMasker(tokenizer, 0.15, 0.8, 0.3)
    with pytest.raises(ConfigError, match=r"masking\.mask_fraction=1\.1"):
        TokenMasker(tokenizer, 0.15, 1.1, 0.0)


def test_masker_refuses_the_tokenizer_when_it_has_no_mask_token(make_tokenizer) -> None:
    with pytest.raises(DataError, match="no mask token"):
        TokenMasker(make_tokenizer(mask_token=None))
