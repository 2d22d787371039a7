"""Masks of whole words, n-grams and smoothed tokens in batches, of rows with one segment or two, however made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from distillkit.data import MaskedLMDataModule, TextCorpus, TokenMasker, WordMasker
from distillkit.data.sentence_order import shown
from distillkit.types import IGNORE_INDEX, Batch

SEP = 3

KINDS = {
    "whole_word": lambda tokenizer: WordMasker(tokenizer, 0.3),
    "ngram": lambda tokenizer: WordMasker(tokenizer, 0.3, smoothing=0.7, max_predictions=9, max_ngram=3),
    "smoothed": lambda tokenizer: TokenMasker(tokenizer, 0.3, smoothing=0.7),
}
PACKINGS = ["full", "none", "sentences"]


@pytest.fixture(scope="module")
def make_module(tokenizer, tmp_path_factory: pytest.TempPathFactory):
    """make_module(kind): over 200 lines of sentences, of words that have one to four tokens."""
    folder, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    words = [f"w{number}{'abcde'[number % 5] * (number % 4)}" for number in range(90)]
    lines = [
        " ".join(" ".join(rng.choice(words, size=rng.integers(1, 9))) + "." for _ in range(rng.integers(1, 6)))
        for _ in range(200)
    ]
    (folder / "corpus.txt").write_text("\n".join(lines))

    def make(kind: str | None, **options) -> MaskedLMDataModule:
        masker = KINDS[kind](tokenizer) if kind else TokenMasker(tokenizer, 0.3)
        options = {"max_length": 40, "cache_dir": folder / "cache", "num_proc": 1, **options}
        return MaskedLMDataModule(TextCorpus(folder / "corpus.txt"), tokenizer, masker=masker, **options)

    return make


def rows_of(batches: list[Batch]) -> Iterator[tuple]:
    """Of every row: its step, that step's totals, its number, ids and labels without padding."""
    for batch in batches:
        for number, ids, labels in zip(batch.sequences, batch.input_ids.tolist(), batch.labels.tolist(), strict=True):
            yield batch.step, batch.totals, number, [i for i in ids if i], labels[: sum(i > 0 for i in ids)]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_steps_have_the_same_masks_and_exact_totals_when_cut_in_any_way(make_module, kind: str, packing: str) -> None:
    def rows(size: int, ranks: int) -> list[tuple]:
        module = make_module(kind, packing=packing, batch_size=size, seed=4)
        streams = [module.train_stream(rank, ranks, 8 // size // ranks, 0, 9) for rank in range(ranks)]
        return sorted(row for stream in streams for row in rows_of(list(stream)))

    whole = rows(8, 1)
    assert rows(1, 1) == rows(2, 2) == whole
    for step in range(9):
        own = [row for row in whole if row[0] == step]
        assert len(own) == 8
        for _, totals, *_ in own:
            assert totals.attended == sum(len(row[3]) for row in own)
            assert totals.predicted == sum(label != IGNORE_INDEX for row in own for label in row[4])


@pytest.mark.parametrize(("kind", "packing"), [*((kind, "none") for kind in KINDS), ("ngram", "sentences")])
def test_batches_are_the_same_when_workers_build_them_or_the_stream_starts_late(
    make_module, kind: str, packing: str
) -> None:
    options = {"packing": packing, "batch_size": 8}
    alone, helped, late = (
        list(rows_of(list(make_module(kind, **options, num_workers=workers).train_stream(0, 1, 1, start, 30))))
        for workers, start in ((0, 0), (2, 0), (0, 25))
    )
    assert len({row[0] for row in alone}) == 30
    assert alone == helped and late == [row for row in alone if row[0] >= 25]


@pytest.mark.parametrize("kind", ["whole_word", "ngram"])
def test_masks_are_those_of_the_row_as_it_is_shown_when_it_has_two_segments(make_module, tokenizer, kind: str) -> None:
    module = make_module(kind, packing="sentences", batch_size=4, seed=3)
    rows, epoch_steps = module.prepare().train, module.plan().steps_per_epoch
    seen = set()
    for batch in module.train_stream(end_step=2 * epoch_steps):
        for line, index in enumerate(batch.sequences):
            draw = {"seed": 3, "epoch": batch.epoch, "index": index}
            row, second, swapped = shown(np.asarray(rows[index]["input_ids"]), rows[index]["second"], **draw)
            masked, labels = module.masker.mask(row, **draw)
            assert batch.input_ids[line][: len(row)].tolist() == masked.tolist()
            assert batch.labels[line][: len(row)].tolist() == labels.tolist()
            for _, start, end in module.masker.spans(row, **draw):
                assert SEP not in row[start:end]
                assert len(set(batch.segments[line][start:end].tolist())) == 1
                seen.add((swapped, start >= second))
    assert seen == {(False, False), (False, True), (True, False), (True, True)}


def test_a_span_has_no_place_across_two_segments_when_words_stand_around_their_border(tokenizer) -> None:
    row = np.asarray([2, 5, 3, 6, 7, 3, 8, 3])  # segments of one, two and one word
    masker = WordMasker(tokenizer, 0.9, max_ngram=3)
    first = {masker.spans(row, seed=0, epoch=0, index=index)[0][1:] for index in range(300)}
    assert first == {(1, 2), (3, 4), (4, 5), (3, 5), (6, 7)}


def test_held_out_rows_have_token_masks_when_training_rows_have_others(make_module) -> None:
    for packing in ("none", "sentences"):
        options = {"packing": packing, "batch_size": 8}
        plain = make_module(None, **options)
        expected = list(rows_of(list(plain.valid_stream())))
        home = plain.homes()["valid"].batch(0, 0).labels.tolist()
        assert expected
        for kind in KINDS:
            assert list(rows_of(list(make_module(kind, **options, seed=3).valid_stream()))) == expected
            assert make_module(kind, **options).homes()["valid"].batch(0, 0).labels.tolist() == home


def test_tokens_are_counted_once_and_kept_when_masks_are_smoothed(
    make_module, tokenizer, tmp_path: Path, monkeypatch
) -> None:
    plain = make_module(None, batch_size=8, cache_dir=tmp_path)
    monkeypatch.setattr("distillkit.data.token_counts._ROWS_AT_A_TIME", 7)
    folder = plain.prepare().folder  # as a version without counts leaves it
    assert {file.name for file in folder.iterdir()} == {"train.arrow", "valid.arrow", "stats.json"}
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    module = make_module("smoothed", batch_size=8, cache_dir=tmp_path)
    rows = module.prepare().train["input_ids"]
    counts = np.bincount(np.concatenate(rows))
    assert np.load(folder / "token_counts.npy").tolist() == counts.tolist()
    assert {name: (folder / name).read_bytes() for name in before} == before
    masker = TokenMasker(tokenizer, 0.3, smoothing=0.7).weighed(counts)
    for _, _, number, _, labels in rows_of(list(module.train_stream(end_step=2))):
        assert labels == masker.mask(np.asarray(rows[number]), seed=0, epoch=0, index=number)[1].tolist()
    monkeypatch.setattr("distillkit.data.token_counts._counted", None)
    again = make_module("smoothed", batch_size=8, cache_dir=tmp_path)
    assert list(rows_of(list(again.train_stream(end_step=2)))) == list(rows_of(list(module.train_stream(end_step=2))))
    assert module.prepare().key == plain.prepare().key
