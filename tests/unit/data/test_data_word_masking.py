"""Whole words and n-grams: what is predicted together, how often, never too much, and the same anywhere."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distillkit.data import MaskedLMDataModule, TextCorpus, TokenMasker, WordMasker
from distillkit.data.word_masking import Span
from distillkit.data.word_starts import WordStarts
from distillkit.errors import ConfigError
from distillkit.types import IGNORE_INDEX, Batch
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


def test_share_of_predictions_is_the_probability_when_text_is_real() -> None:
    tokenizer = trained("unigram", 150)
    masker, starts = WordMasker(tokenizer, max_ngram=3), WordStarts(tokenizer)
    predicted = attended = 0
    for index, (text, other) in enumerate(zip(TEXTS, reversed(TEXTS), strict=True)):
        row = np.asarray(tokenizer(text, other)["input_ids"], dtype=np.int32)
        labels = masker.mask(row, seed=0, epoch=0, index=index)[1]
        spans = masker.spans(row, seed=0, epoch=0, index=index)
        assert all(starts(row)[span.start] for span in spans)
        assert all(span.end == len(row) or starts(row)[span.end] for span in spans if span.words)
        predicted, attended = predicted + int((labels != IGNORE_INDEX).sum()), attended + len(row)
    assert predicted / attended == pytest.approx(0.15, abs=0.003)


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


# --- in the stream -----------------------------------------------------------------------------------------------

KINDS = {
    "whole_word": lambda tokenizer: WordMasker(tokenizer, 0.3),
    "ngram": lambda tokenizer: WordMasker(tokenizer, 0.3, smoothing=0.7, max_predictions=9, max_ngram=3),
    "smoothed": lambda tokenizer: TokenMasker(tokenizer, 0.3, smoothing=0.7),
}
SHAPES = [{"packing": "full"}, {"packing": "none"}]


@pytest.fixture(scope="module")
def make_module(tokenizer, tmp_path_factory: pytest.TempPathFactory):
    """make_module(kind): over 200 lines of words that have one to four tokens."""
    folder, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    words = [f"w{number}{'abcde'[number % 5] * (number % 4)}" for number in range(90)]
    lines = [" ".join(rng.choice(words, size=rng.integers(2, 30))) for _ in range(200)]
    (folder / "corpus.txt").write_text("\n".join(lines))

    def make(kind: str | None, **options) -> MaskedLMDataModule:
        masker = KINDS[kind](tokenizer) if kind else TokenMasker(tokenizer, 0.3)
        options = {"max_length": 40, "cache_dir": folder / "cache", **options}
        return MaskedLMDataModule(TextCorpus(folder / "corpus.txt"), tokenizer, masker=masker, **options)

    return make


def rows_of(batches: list[Batch]) -> Iterator[tuple]:
    """Of every row: its step, that step's totals, its number, ids and labels without padding."""
    for batch in batches:
        for number, ids, labels in zip(batch.sequences, batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            yield batch.step, batch.totals, number, [i for i in ids if i], labels[: sum(i > 0 for i in ids)]


@pytest.mark.parametrize("shape", SHAPES, ids=["full", "none"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_steps_have_the_same_masks_and_exact_totals_when_cut_in_any_way(make_module, kind: str, shape) -> None:
    whole, *others = (
        sorted(
            row
            for rank in range(ranks)
            for row in rows_of(
                list(
                    make_module(kind, **shape, batch_size=size, seed=4).train_stream(
                        rank, ranks, 8 // size // ranks, 0, 9
                    )
                )
            )
        )
        for size, ranks in ((8, 1), (1, 1), (2, 2))
    )
    assert others == [whole, whole]
    for step in range(9):
        rows = [row for row in whole if row[0] == step]
        assert len(rows) == 8
        for _, totals, *_ in rows:
            assert totals.attended == sum(len(row[3]) for row in rows)
            assert totals.predicted == sum(label != IGNORE_INDEX for row in rows for label in row[4])


@pytest.mark.parametrize("kind", list(KINDS))
def test_batches_are_the_same_when_workers_build_them_or_the_stream_starts_late(make_module, kind: str) -> None:
    options = {"packing": "none", "batch_size": 8}
    alone, helped, late = (
        list(rows_of(list(make_module(kind, **options, num_workers=workers).train_stream(0, 1, 1, start, 30))))
        for workers, start in ((0, 0), (2, 0), (0, 25))
    )
    assert len({row[0] for row in alone}) == 30
    assert alone == helped and late == [row for row in alone if row[0] >= 25]


def test_held_out_rows_have_token_masks_when_training_rows_have_others(make_module) -> None:
    options = {"packing": "none", "batch_size": 8}
    expected = list(rows_of(list(make_module(None, **options).valid_stream())))
    assert expected
    for kind in KINDS:
        assert list(rows_of(list(make_module(kind, **options, seed=3).valid_stream()))) == expected
    (home,) = {make_module(kind, **options).homes()["valid"].batch(0, 0).labels.numpy().tobytes() for kind in KINDS}
    assert home == make_module(None, **options).homes()["valid"].batch(0, 0).labels.numpy().tobytes()


def test_tokens_are_counted_once_and_kept_when_masks_are_smoothed(make_module, tmp_path: Path, monkeypatch) -> None:
    plain = make_module(None, batch_size=8, cache_dir=tmp_path)
    monkeypatch.setattr("distillkit.data.token_counts._ROWS_AT_A_TIME", 7)
    folder = plain.prepare().folder
    assert not (folder / "token_counts.npy").exists()
    module = make_module("smoothed", batch_size=8, cache_dir=tmp_path)
    rows = module.prepare().train["input_ids"]
    kept = np.load(folder / "token_counts.npy")
    assert kept.tolist() == np.bincount(np.concatenate(rows)).tolist()
    monkeypatch.setattr("distillkit.data.token_counts._counted", None)
    again = make_module("smoothed", batch_size=8, cache_dir=tmp_path)
    assert list(rows_of(list(again.train_stream(end_step=2)))) == list(rows_of(list(module.train_stream(end_step=2))))
    assert module.prepare().key == plain.prepare().key
