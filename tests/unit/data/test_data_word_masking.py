"""Whole words and n-grams: what is predicted together, how often, never too much, and the same anywhere."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from distillkit.data import TokenMasker, WordMasker
from distillkit.data.word_masking import Span
from distillkit.errors import ConfigError
from distillkit.types import IGNORE_INDEX
from tests.unit.data.word_tokenizers import TEXTS, trained

MASK, SPECIAL = 4, (0, 1, 2, 3, 4)
ONCE_IN_A_THOUSAND = {2: 13.8, 29: 58.3}
"""Chi-square by degrees of freedom. The seeds are fixed, so a test that passes once passes always."""


def words_row(sizes: list[int], *, borders: tuple[int, ...] = ()) -> np.ndarray:
    """[CLS] words of so many tokens (w.. ##..) [SEP]; a [SEP] before the words of the given numbers too."""
    row = [2]
    for number, size in enumerate(sizes):
        row += [3] * (number in borders) + [5 + number % 90] + [95 + place % 5 for place in range(size - 1)]
    return np.asarray([*row, 3], dtype=np.int32)


def mixed_row(seed: int, words: int) -> np.ndarray:
    """Words of 1 to 4 tokens, and three special tokens among them."""
    rng = np.random.default_rng(seed)
    return words_row(rng.choice([1, 1, 1, 2, 2, 3, 4], size=words).tolist(), borders=(1, words // 3, words // 2))


def words_of(masker: WordMasker, row: np.ndarray) -> list[tuple[int, int]]:
    """(start, end) of every word of a row, from left to right."""
    heads = [*np.flatnonzero(masker._word_starts(row)).tolist(), len(row)]
    return [(a, b) for a, b in itertools.pairwise(heads) if row[a] not in SPECIAL]


@pytest.mark.parametrize("max_ngram", [1, 3])
@pytest.mark.parametrize("smoothing", [None, 0.7])
def test_mask_predicts_whole_words_and_the_fixed_number_when_rows_differ(tokenizer, max_ngram, smoothing) -> None:
    masker = WordMasker(tokenizer, max_ngram=max_ngram, smoothing=smoothing).weighed(np.arange(100) ** 2)
    lengths: set[int] = set()
    for index in range(300):
        row = mixed_row(index, 3 + index % 90)
        words = words_of(masker, row)
        draw = {"seed": 3, "epoch": 1, "index": index}
        spans = masker.spans(row, **draw)
        masked, labels = masker.mask(row, **draw)
        predicted = np.flatnonzero(labels != IGNORE_INDEX)
        maskable = int((~np.isin(row, SPECIAL)).sum())
        assert len(predicted) == max(1, round(0.15 * len(row)))
        assert len(predicted) == masker.predictions(np.asarray([len(row)]), np.asarray([maskable]))[0]
        assert sorted(place for span in spans for place in range(span.start, span.end)) == predicted.tolist()
        assert (labels[predicted] == row[predicted]).all() and not np.isin(row[predicted], SPECIAL).any()
        unpredicted = labels == IGNORE_INDEX
        assert (masked[unpredicted] == row[unpredicted]).all()
        for span in spans[: None if spans[-1].words else -1]:  # a cut word can only be the last
            first = [start for start, _ in words].index(span.start)
            inside = words[first : first + span.words]
            assert 1 <= span.words <= max_ngram and inside[-1][1] == span.end
            assert all(a[1] == b[0] for a, b in itertools.pairwise(inside)), "a special token lies inside"
        lengths |= {span.words for span in spans}
    assert lengths - {0} == set(range(1, max_ngram + 1))


def test_spans_have_alberts_lengths_when_drawn_often(tokenizer) -> None:
    masker, row = WordMasker(tokenizer, 0.4, max_ngram=3), words_row([1] * 510)  # so full that spans often meet
    counts = np.zeros(3)
    for index in range(600):
        spans = masker.spans(row, seed=7, epoch=0, index=index)
        assert len(spans) > 68
        # never the last span, which is shortened to what is left, nor a share of spans that depends on their lengths
        counts += np.bincount([span.words - 1 for span in spans[:68]], minlength=3)
    expected = counts.sum() * np.asarray([6, 3, 2]) / 11
    assert ((counts - expected) ** 2 / expected).sum() < ONCE_IN_A_THOUSAND[2]


def test_spans_have_alberts_lengths_when_words_have_several_tokens(tokenizer) -> None:
    masker, counts = WordMasker(tokenizer, max_ngram=3), np.zeros(3)
    for index in range(700):
        spans = masker.spans(mixed_row(index, 240), seed=2, epoch=1, index=index)  # 65 predictions or more
        counts += np.bincount([span.words - 1 for span in spans[:5]], minlength=3)
    expected = counts.sum() * np.asarray([6, 3, 2]) / 11
    assert counts.sum() == 3500
    assert ((counts - expected) ** 2 / expected).sum() < ONCE_IN_A_THOUSAND[2]


def test_lengths_follow_their_formula_when_max_ngram_is_another(tokenizer) -> None:
    row = words_row([1] * 510)
    for longest, shares in ((2, [2 / 3, 1 / 3]), (4, [12 / 25, 6 / 25, 4 / 25, 3 / 25])):
        masker = WordMasker(tokenizer, max_ngram=longest)
        words = [span.words for index in range(200) for span in masker.spans(row, seed=0, epoch=0, index=index)[:20]]
        seen = np.bincount(words, minlength=longest + 1)[1:] / len(words)
        assert (abs(seen - shares) < 4 * np.sqrt(0.25 / len(words))).all()


@pytest.mark.parametrize("max_ngram", [1, 3])
def test_every_word_is_predicted_alike_when_drawn_often(tokenizer, max_ngram: int) -> None:
    masker, row = WordMasker(tokenizer, max_ngram=max_ngram), words_row([2] * 30)  # 62 tokens: 9 predictions
    hits, starts = np.zeros(30), np.zeros(30)
    for index in range(4000):
        spans = masker.spans(row, seed=11, epoch=0, index=index)
        hits[[(place - 1) // 2 for span in spans for place in range(span.start, span.end)]] += 1
        starts[(spans[0].start - 1) // 2] += 1
    if max_ngram == 1:
        assert ((hits - hits.mean()) ** 2 / hits.mean()).sum() < ONCE_IN_A_THOUSAND[29]
    else:  # the words at the ends have a neighbour on one side only
        assert (abs(hits[2:-2] / hits[2:-2].mean() - 1) < 0.12).all()
        assert (hits[[0, -1]] < hits.mean()).all() and (starts[:28] > 0).all()


def test_tokens_are_shown_80_10_10_each_by_itself_when_they_are_of_one_word(tokenizer) -> None:
    masker, row = WordMasker(tokenizer), words_row([4] * 20)
    together, shown = np.zeros((4, 4)), []
    for index in range(3000):
        masked, labels = masker.mask(row, seed=5, epoch=0, index=index)
        for span in (span for span in masker.spans(row, seed=5, epoch=0, index=index) if span.words):
            together += np.outer(*[masked[span.start : span.end] == MASK] * 2)
        chosen = labels != IGNORE_INDEX
        shown.append(np.stack([masked[chosen], row[chosen]]))
    tokens, originals = np.concatenate(shown, axis=1)
    masked, kept = tokens == MASK, tokens == originals
    for share, expected in (
        (masked.mean(), 0.8), (kept.mean(), 0.1 + 0.1 / 95), ((~masked & ~kept).mean(), 0.1 * 94 / 95),
    ):  # fmt: skip
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / len(tokens))
    count = 3 * 3000  # 82 tokens: 12 predictions, three whole words
    pairs = together[~np.eye(4, dtype=bool)] / count
    assert (abs(pairs - 0.64) < 4 * np.sqrt(0.64 * 0.36 / count)).all()


@pytest.mark.parametrize("masking", [{"max_ngram": 3}, {"max_ngram": 3, "smoothing": 0.7, "max_predictions": 20}, None])
def test_tokens_are_shown_80_10_10_when_spans_or_smoothed_tokens_are_predicted(tokenizer, masking) -> None:
    masker = TokenMasker(tokenizer, smoothing=0.7) if masking is None else WordMasker(tokenizer, **masking)
    masker, seen = masker.weighed(np.arange(100) ** 2), np.zeros(3)
    for index in range(600):
        row = mixed_row(index, 90)
        masked, labels = masker.mask(row, seed=1, epoch=3, index=index)
        chosen = labels != IGNORE_INDEX
        kept = masked[chosen] == row[chosen]
        seen += [(masked[chosen] == MASK).sum(), kept.sum(), (~kept & (masked[chosen] != MASK)).sum()]
    expected = seen.sum() * np.asarray([0.8, 0.1 + 0.1 / 95, 0.1 * 94 / 95])  # a random token is the same once in 95
    assert ((seen - expected) ** 2 / expected).sum() < ONCE_IN_A_THOUSAND[2]


def test_predictions_end_with_a_cut_word_when_no_whole_one_fits(tokenizer) -> None:
    for max_ngram in (1, 3):
        masker, row = WordMasker(tokenizer, max_ngram=max_ngram), words_row([4] * 24)  # 98 tokens: 15 predictions
        for index in range(100):
            *whole, last = masker.spans(row, seed=0, epoch=0, index=index)
            assert sum(span.words for span in whole) == 3
            assert last.words == 0 and last.end - last.start == 3 and (last.start - 1) % 4 == 0
            assert not any(span.start <= last.start < span.end for span in whole)
    whole_first = words_row([3, 1, 3])  # 9 tokens: one prediction
    assert {WordMasker(tokenizer).spans(whole_first, seed=0, epoch=0, index=i)[0] for i in range(9)} == {Span(1, 4, 5)}
    single = words_row([3])
    assert WordMasker(tokenizer).spans(single, seed=0, epoch=0, index=0) == [Span(0, 1, 2)]
    labels = WordMasker(tokenizer).mask(np.asarray([2, 1, 3]), seed=0, epoch=0, index=0)[1]
    assert labels.tolist() == [IGNORE_INDEX] * 3


def test_no_word_is_cut_when_the_row_has_enough_words_of_one_token(tokenizer) -> None:
    masker = WordMasker(tokenizer, max_ngram=3)
    for index in range(200):
        sizes = np.random.default_rng(index).permutation([1] * 16 + [2, 3, 4, 5] * 5)  # 88 tokens: 13 predictions
        assert all(span.words for span in masker.spans(words_row(sizes.tolist()), seed=0, epoch=0, index=index))


@pytest.mark.parametrize("limit", [1, 5, 12])
@pytest.mark.parametrize("max_ngram", [1, 3])
def test_predictions_never_exceed_the_limit_when_there_is_one(tokenizer, limit: int, max_ngram: int) -> None:
    masker = WordMasker(tokenizer, max_predictions=limit, max_ngram=max_ngram)
    for index in range(100):
        row = mixed_row(index, 5 + index)
        labels = masker.mask(row, seed=0, epoch=0, index=index)[1]
        assert (labels != IGNORE_INDEX).sum() == min(limit, max(1, round(0.15 * len(row))))


@pytest.mark.parametrize("max_ngram", [1, 3])
@pytest.mark.parametrize(("kind", "size"), [("wordpiece", 150), ("byte_bpe", 340), ("unigram", 150)])
def test_spans_are_words_of_the_tokenizer_itself_when_text_is_real(kind: str, size: int, max_ngram: int) -> None:
    tokenizer = trained(kind, size)
    masker = WordMasker(tokenizer, max_ngram=max_ngram)
    several = 0  # training breaks ties at random: what is asked holds for every vocabulary
    for index, (text, other) in enumerate(list(zip(TEXTS, reversed(TEXTS), strict=True)) * 20):
        encoding = tokenizer(text, other)
        row = np.asarray(encoding["input_ids"], dtype=np.int32)
        words = list(zip(encoding.sequence_ids(0), encoding.word_ids(0), strict=True))  # (None, None): a special token
        labels = masker.mask(row, seed=0, epoch=0, index=index)[1]
        for span in masker.spans(row, seed=0, epoch=0, index=index):
            inside = words[span.start : span.end]
            assert words[span.start - 1] != inside[0] and len({sequence for sequence, _ in inside}) == 1
            assert None not in inside[0] and len(set(inside)) == max(span.words, 1)
            assert words[span.end] != inside[-1] or not span.words
            several += span.end - span.start > span.words > 0
        assert (labels != IGNORE_INDEX).sum() == round(0.15 * len(row))
    assert several > 200, "few words have several pieces"


def test_words_are_chosen_by_the_mean_weight_of_their_tokens_when_smoothed(tokenizer) -> None:
    counts = np.ones(100, dtype=np.int64)
    counts[[5, 95]] = 16, 256
    masker = WordMasker(tokenizer, smoothing=0.5).weighed(counts)
    row = np.asarray([2, 5, 95, 6, 3, 7, *[3] * 6])  # two predictions: the word of 1/4 and 1/16, or both of 1
    first = [masker.spans(row, seed=0, epoch=0, index=index)[0].start == 1 for index in range(6000)]
    chance = (1 / 4 + 1 / 16) / 2 / ((1 / 4 + 1 / 16) / 2 + 2)
    assert abs(np.mean(first) - chance) < 4 * np.sqrt(chance * (1 - chance) / 6000)


def test_masks_are_the_same_when_the_masker_was_sent_to_another_process(tokenizer, make_tokenizer) -> None:
    options = {"max_ngram": 3, "smoothing": 0.7}
    here = WordMasker(tokenizer, **options).weighed(np.arange(100))
    there = pickle.loads(pickle.dumps(WordMasker(make_tokenizer(), **options).weighed(np.arange(100))))
    row, base = mixed_row(0, 60), {"seed": 1, "epoch": 2, "index": 3}
    first = here.mask(row, **base)
    there.mask(mixed_row(1, 9), seed=9, epoch=9, index=9)
    assert all(np.array_equal(a, b) for a, b in zip(first, there.mask(row, **base), strict=True))
    for change in ({"seed": 2}, {"epoch": 3}, {"index": 4}):
        assert not np.array_equal(first[1], there.mask(row, **{**base, **change})[1])


def test_masker_refuses_the_length_when_there_is_none(tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"masking\.max_ngram=0: .*fix: set masking\.max_ngram=3"):
        WordMasker(tokenizer, max_ngram=0)
