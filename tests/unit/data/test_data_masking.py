"""Masks: how many, where, what, and always the same."""

from __future__ import annotations

import numpy as np
import pytest

from distillkit.data import TokenMasker
from distillkit.data.masking import shuffled
from distillkit.data.randomness import MASK_STREAM, generator
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


def as_before_words(row: np.ndarray, shares: tuple[float, float, float], **draw: int) -> tuple[np.ndarray, np.ndarray]:
    """TokenMasker.mask as it was when there was no other masking: runs begun then go on with the same masks."""
    probability, to_mask, random = shares
    ordinary = np.flatnonzero(~np.isin(row, SPECIAL))
    count = min(len(ordinary), max(1, int(np.rint(probability * len(row)))))
    rng = generator(draw["seed"], MASK_STREAM, draw["epoch"], draw["index"])
    chosen = rng.permutation(ordinary)[:count]
    action, drawn = rng.random(count), np.arange(5, 100)[rng.integers(95, size=count)]
    masked, labels = row.astype(np.int64), np.full(len(row), IGNORE_INDEX)
    labels[chosen] = row[chosen]
    masked[chosen] = np.where(action < to_mask, MASK, np.where(action < to_mask + random, drawn, row[chosen]))
    return masked, labels


@pytest.mark.parametrize("shares", [(0.15, 0.8, 0.1), (0.3, 0.5, 0.5)])
def test_token_masks_are_bit_for_bit_the_earlier_ones_when_nothing_else_is_asked_for(tokenizer, shares) -> None:
    for masker in (TokenMasker(tokenizer, *shares), TokenMasker(tokenizer, *shares, smoothing=0, max_predictions=500)):
        for index in range(300):
            row, draw = row_of(6 + index, index), {"seed": index - 3, "epoch": index % 5, "index": index}
            expected = as_before_words(row, shares, **draw)
            assert all(np.array_equal(a, b) for a, b in zip(masker.mask(row, **draw), expected, strict=True))


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


def test_rare_tokens_are_chosen_by_their_weight_when_masks_are_smoothed(tokenizer) -> None:
    counts = np.ones(100, dtype=np.int64)
    counts[10:], counts[99] = 1000, 0  # 0 counts as 1
    masker = TokenMasker(tokenizer, smoothing=0.7, max_predictions=1).weighed(counts)
    row, draws = np.asarray([2, 5, 10, 11, 12, 3, 99, 13, 14, 15, 3]), 6000
    hits = np.zeros(len(row))
    for index in range(draws):
        hits += masker.mask(row, seed=3, epoch=0, index=index)[1] != IGNORE_INDEX
    weights = np.where(np.isin(row, SPECIAL), 0, np.where(np.isin(row, [5, 99]), 1, 1000**-0.7))
    expected = draws * weights / weights.sum()
    assert hits[expected == 0].sum() == 0
    hits, expected = hits[expected > 0], expected[expected > 0]
    assert ((hits - expected) ** 2 / expected).sum() < 24.4  # 7 degrees of freedom: once in a thousand


def test_chance_of_a_token_falls_with_the_power_of_its_count_when_masks_are_smoothed(tokenizer) -> None:
    seen_in_text = 4 ** np.arange(8)  # 1 to 16384 times
    counts = np.ones(100, dtype=np.int64)
    counts[10:18] = seen_in_text
    masker = TokenMasker(tokenizer, smoothing=0.7, max_predictions=1).weighed(counts)
    row, draws = np.asarray([2, *range(10, 18), 3]), 20000
    places = [masker.mask(row, seed=9, epoch=0, index=i)[1].argmax() - 1 for i in range(draws)]
    hits, chances = np.bincount(places, minlength=8), seen_in_text**-0.7
    expected = draws * chances / chances.sum()
    assert ((hits - expected) ** 2 / expected).sum() < 24.4  # 7 degrees of freedom: once in a thousand
    slope = np.polyfit(np.log(seen_in_text[:5]), np.log(hits[:5]), 1)[0]
    assert slope == pytest.approx(-0.7, abs=0.03)


def test_tokens_are_drawn_one_after_the_other_by_weight_when_there_are_several() -> None:
    weights, pairs = np.asarray([4.0, 2.0, 1.0]), np.zeros((3, 3))
    for number in range(7000):
        first, second = shuffled(3, weights, np.random.default_rng(number))[:2]
        pairs[first, second] += 1
    each = weights / 7
    expected = 7000 * each[:, None] * weights / (7 - weights)[:, None]
    off = ~np.eye(3, dtype=bool)
    assert ((pairs - expected)[off] ** 2 / expected[off]).sum() < 20.5  # 5 degrees of freedom: once in a thousand


def test_masks_are_those_without_smoothing_when_it_is_zero(tokenizer) -> None:
    row, draw = row_of(64), {"seed": 0, "epoch": 0, "index": 5}
    plain = TokenMasker(tokenizer).mask(row, **draw)
    for smoothing, same in ((0, True), (None, True), (0.7, False)):
        found = TokenMasker(tokenizer, smoothing=smoothing).weighed(np.arange(100)).mask(row, **draw)
        assert np.array_equal(plain[1], found[1]) is same


def test_counts_must_be_told_before_a_mask_when_there_is_smoothing(tokenizer) -> None:
    masker = TokenMasker(tokenizer, smoothing=0.7)
    masker.weighed(np.arange(100))  # another masker: the one at hand may serve another corpus
    with pytest.raises(RuntimeError, match="weighed"):
        masker.mask(row_of(64), seed=0, epoch=0, index=0)


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_predictions_never_exceed_the_limit_when_there_is_one(tokenizer, limit: int) -> None:
    masker = TokenMasker(tokenizer, max_predictions=limit)
    for length in (8, 40, 128):
        labels = masker.mask(row_of(length), seed=0, epoch=0, index=0)[1]
        assert (labels != IGNORE_INDEX).sum() == min(limit, max(1, round(0.15 * length)))


@pytest.mark.parametrize(("key", "value"), [("smoothing", -0.1), ("smoothing", float("inf")), ("max_predictions", 0)])
def test_masker_refuses_smoothing_and_limit_when_out_of_range(tokenizer, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"masking\.{key}={value}: .*fix: set masking\.{key}=null"):
        TokenMasker(tokenizer, **{key: value})
