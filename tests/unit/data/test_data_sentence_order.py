"""Rows of two segments: what they hold, where they are cut, and in which order they are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from distillkit.data import MaskedLMDataModule, TextCorpus
from distillkit.data.cache import prepare
from distillkit.data.masking import VALID_SEED
from distillkit.data.packing import Ragged
from distillkit.data.sentence_order import PairPacker, shown
from distillkit.data.tokenization import Frame
from distillkit.errors import DataError
from distillkit.types import IGNORE_INDEX, Batch

CLS, SEP = 2, 3
Document = list[list[int]]


def numbered(*lengths: list[int]) -> list[Document]:
    """Documents of sentences of the given lengths; every token is another one."""
    token = 10
    documents: list[Document] = []
    for document in lengths:
        documents.append([])
        for length in document:
            documents[-1].append([*range(token, token + length)])
            token += length
    return documents


def ragged(documents: list[Document]) -> Ragged:
    flat = [token for document in documents for sentence in document for token in sentence]
    lengths = [sum(map(len, document)) for document in documents]
    parts = [len(sentence) for document in documents for sentence in document]
    return Ragged(np.asarray(flat, dtype=np.int32), np.asarray(lengths, dtype=int), np.asarray(parts, dtype=int))


def packed(packer: PairPacker, *batches: list[Document]) -> list[tuple[list[int], list[int]]]:
    """The two segments of each row, without the special tokens around them."""
    found = []
    for rows in packer.pack(map(ragged, batches)):
        assert rows.parts is not None and rows.values.dtype == np.int32
        assert rows.parts.reshape(-1, 2).sum(1).tolist() == rows.lengths.tolist()
        ends = np.cumsum(rows.lengths)[:-1]
        for row, second in zip(np.split(rows.values, ends), rows.parts[::2], strict=False):
            if len(row):
                assert (row[0], row[second - 1], row[-1]) == (CLS, SEP, SEP)
                found.append((row[1 : second - 1].tolist(), row[second:-1].tolist()))
    return found


def random_documents(count: int, *, seed: int = 0, longest: int = 40) -> list[Document]:
    rng = np.random.default_rng(seed)
    return numbered(*(rng.integers(1, longest + 1, size=rng.integers(0, 14)).tolist() for _ in range(count)))


@pytest.mark.parametrize("max_length", [12, 33, 64, 600])
def test_rows_are_whole_consecutive_sentences_of_one_document_when_packed(max_length: int) -> None:
    documents = random_documents(200)
    packer = PairPacker(Frame(CLS, SEP), max_length)
    rows = packed(packer, documents)
    starts = {sentence[0]: (d, s) for d, document in enumerate(documents) for s, sentence in enumerate(document)}
    ends = {sentence[-1]: (d, s) for d, document in enumerate(documents) for s, sentence in enumerate(document)}
    for first, second in rows:
        assert len(first) + len(second) + 3 <= max_length and first and second
        assert starts[first[0]][0] == ends[second[-1]][0]
        document, cut = ends[first[-1]]
        assert starts[second[0]] == (document, cut + 1)
        assert first + second == [*range(first[0], second[-1] + 1)]
    shown_tokens = [token for first, second in rows for token in first + second]
    assert len(set(shown_tokens)) == len(shown_tokens)
    tokens = sum(len(sentence) for document in documents for sentence in document)
    assert packer.counts["tokens"] == tokens == len(shown_tokens) + packer.counts["dropped_tokens"]
    assert packer.counts["rows"] == len(rows)
    assert packer.counts["sentences"] == sum(map(len, documents))
    assert packer.counts["single_sentence_documents"] == sum(len(document) == 1 for document in documents)
    assert packer.counts["empty_documents"] == sum(not document for document in documents)


def test_rows_are_the_same_when_documents_arrive_in_any_batches() -> None:
    documents = random_documents(60)
    whole, single = (PairPacker(Frame(CLS, SEP), 50) for _ in range(2))
    assert packed(whole, documents) == packed(single, *([document] for document in documents), [])
    assert whole.counts == single.counts


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], []),  # one sentence
        ([5, 30, 5], []),  # none fits beside the long one
        ([5, 5], [10]),
        ([5, 5, 5, 5, 5], [15, 10]),  # 20 fit: the last takes the one before it along
        ([10, 10, 15, 4], [20, 19]),
        ([10, 10, 15], [20]),  # the run before has none to spare
        ([30, 6, 7, 30, 8, 9], [13, 17]),
    ],
)
def test_sentences_without_a_neighbour_in_their_row_are_left_out_and_counted(
    lengths: list[int], expected: list[int]
) -> None:
    packer = PairPacker(Frame(CLS, SEP), 23)
    rows = packed(packer, numbered(lengths))
    assert [len(first) + len(second) for first, second in rows] == expected
    assert packer.counts["dropped_tokens"] == sum(lengths) - sum(expected)


def test_rows_are_filled_from_the_back_in_every_second_document() -> None:
    rows = packed(PairPacker(Frame(CLS, SEP), 23), numbered([10, 10, 9, 1, 1], [10, 10, 9, 1, 1]))
    assert [len(first) + len(second) for first, second in rows] == [20, 11, 10 + 10, 9 + 1 + 1]
    rows = packed(PairPacker(Frame(CLS, SEP), 23), numbered([9, 9, 9, 8], [9, 9, 9, 8, 9, 9]))
    assert [(len(first), len(second)) for first, second in rows] == [(9, 9), (9, 8), (9, 9), (9, 8), (9, 9)]


def test_cut_is_at_every_sentence_end_alike_when_many_rows_are_made() -> None:
    rows = packed(PairPacker(Frame(CLS, SEP), 23), numbered(*([5, 5, 5, 5] for _ in range(3000))))
    counts = np.unique([len(first) for first, _ in rows], return_counts=True)
    assert counts[0].tolist() == [5, 10, 15]
    assert abs(counts[1] - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)


def test_lengths_do_not_tell_the_order_when_rows_are_filled_in_turns() -> None:
    rows = packed(PairPacker(Frame(CLS, SEP), 64), random_documents(6000, seed=1))
    lengths = np.asarray([[len(first), len(second)] for first, second in rows], dtype=float)
    for values in (lengths, np.log(lengths), lengths**2):
        gap = values[:, 0] - values[:, 1]
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(len(gap))
    wins = np.sign(lengths[:, 0] - lengths[:, 1])
    assert len(rows) > 10_000 and abs(wins.mean()) < 4 / np.sqrt(len(rows))


# --- in order or swapped -----------------------------------------------------------------------------------------

ROW = np.array([CLS, 10, 11, 12, SEP, 20, 21, SEP])
SWAPPED = [CLS, 20, 21, SEP, 10, 11, 12, SEP]


def swaps(**more: int) -> np.ndarray:
    return np.asarray([shown(ROW, 5, **({"seed": 0, "epoch": 0, "index": i} | more))[2] for i in range(4000)])


def test_segments_change_places_with_their_separators_when_a_row_is_swapped() -> None:
    seen = {}
    for index in range(30):
        row, second, swapped = shown(ROW, 5, seed=0, epoch=0, index=index)
        seen[swapped] = (row.tolist(), second)
    assert seen == {False: (ROW.tolist(), 5), True: (SWAPPED, 4)}


def test_half_of_the_rows_are_swapped_whatever_seed_and_epoch_when_drawn() -> None:
    draws = [swaps(), swaps(seed=1), swaps(epoch=1), swaps(seed=VALID_SEED), swaps(seed=2**64 - 1)]
    for number, draw in enumerate(draws):
        assert abs(draw.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(draw))
        for other in draws[:number]:
            assert abs((draw == other).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(draw)), "draws of their own"
    assert abs((draws[0][1:] == draws[0][:-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(draws[0]))


def test_order_is_the_same_when_drawn_again_alone() -> None:
    assert [shown(ROW, 5, seed=0, epoch=0, index=i)[2] for i in (7, 3, 3999)] == swaps()[[7, 3, 3999]].tolist()
    assert np.array_equal(swaps(seed=5), swaps(seed=5 + 2**64))


# --- batches -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 lines of 1 to 12 sentences of 1 to 9 words."""
    rng = np.random.default_rng(0)
    lines = [
        " ".join(" ".join(f"w{n}" for n in rng.integers(90, size=rng.integers(1, 10))) + "." for _ in range(count))
        for count in rng.integers(1, 13, size=200)
    ]
    path = tmp_path_factory.mktemp("stories") / "stories.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_module(tokenizer, stories: Path, tmp_path: Path):
    def make(**options: Any) -> MaskedLMDataModule:
        options = {"max_length": 24, "packing": "sentences", "batch_size": 4} | options
        return MaskedLMDataModule(TextCorpus(stories), tokenizer, num_proc=1, cache_dir=tmp_path / "cache", **options)

    return make


def originals(batch: Batch) -> list[list[int]]:
    """The rows without masks and padding."""
    ids = torch.where(batch.labels == IGNORE_INDEX, batch.input_ids, batch.labels)
    attended = torch.ones_like(ids) if batch.attention_mask is None else batch.attention_mask
    return [row[:n].tolist() for row, n in zip(ids, attended.sum(1).tolist(), strict=True)]


def test_batches_show_rows_in_their_drawn_order_when_read(make_module) -> None:
    module = make_module(seed=3)
    rows = module.prepare().train
    seen = set()
    for batch in module.train_stream(end_step=2 * module.plan().steps_per_epoch):
        for line, (index, ids) in enumerate(zip(batch.sequences, originals(batch), strict=True)):
            row, second = np.asarray(rows[index]["input_ids"]), rows[index]["second"]
            expected, at, swapped = shown(row, second, seed=3, epoch=batch.epoch, index=index)
            assert ids == expected.tolist()
            assert batch.swapped[line] == swapped
            width = batch.input_ids.shape[1]
            assert batch.segments[line].tolist() == [0] * at + [1] * (len(row) - at) + [0] * (width - len(row))
            seen.add((batch.epoch, swapped))
        assert batch.totals.sequences == len(batch.sequences)
    assert seen == {(0, False), (0, True), (1, False), (1, True)}


def test_rows_and_segment_ids_are_those_of_the_tokenizer_when_it_is_given_two_segments(
    make_module, tokenizer, make_tokenizer
) -> None:
    paired = make_tokenizer()
    paired.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    words = {number: token for token, number in tokenizer.get_vocab().items()}
    for batch in make_module().train_stream(end_step=5):
        for line, ids in enumerate(originals(batch)):
            row, types = np.asarray(ids), batch.segments[line][: len(ids)].numpy()
            parts = [[token for token in row[types == kind] if token not in (CLS, SEP)] for kind in (0, 1)]
            encoded = paired(*(" ".join(words[token] for token in part) for part in parts), return_token_type_ids=True)
            assert encoded["input_ids"] == ids
            assert encoded["token_type_ids"] == types.tolist()


def test_order_repeats_with_the_masks_when_patterns_are_few(make_module) -> None:
    def streams(**options: Any) -> tuple[dict[int, int], dict[int, int]]:
        module = make_module(**options)
        batches = list(module.train_stream(end_step=2 * module.plan().steps_per_epoch))
        half = len(batches) // 2
        return tuple(  # type: ignore[return-value]
            {i: int(s) for batch in part for i, s in zip(batch.sequences, batch.swapped, strict=True)}
            for part in (batches[:half], batches[half:])
        )

    for options, same in (({"mask_epochs": 1}, True), ({}, False)):
        first, second = streams(**options)
        common = first.keys() & second.keys()
        assert all(first[index] == second[index] for index in common) == same


def test_held_out_rows_have_one_order_when_seeds_differ(make_module) -> None:
    one, two = (list(make_module(seed=seed).valid_stream()) for seed in (0, 1))
    assert len(one) > 1
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.swapped, b.swapped)
        assert torch.equal(a.segments, b.segments) and torch.equal(a.labels, b.labels)
    assert {int(s) for batch in one for s in batch.swapped} == {0, 1}


def test_batches_are_the_same_when_workers_build_them(make_module) -> None:
    alone, helped = (list(make_module(num_workers=n).train_stream(end_step=9)) for n in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.segments, b.segments)
        assert torch.equal(a.swapped, b.swapped)


def test_rows_of_other_packings_have_no_segments_when_read(make_module) -> None:
    batch = next(iter(make_module(packing="none").train_stream(end_step=1)))
    assert batch.segments is None and batch.swapped is None


# --- the cache ---------------------------------------------------------------------------------------------------


def test_rows_do_not_depend_on_the_number_of_processes(stories: Path, tokenizer, tmp_path: Path) -> None:
    rows = [
        prepare(
            TextCorpus(stories), tokenizer, max_length=24, packing="sentences", num_proc=n, cache_dir=tmp_path / str(n)
        ).train.to_dict()
        for n in (1, 2)
    ]
    assert rows[0] == rows[1] and len(rows[0]["second"]) > 100


def test_key_changes_with_segmenter_and_language_only_when_rows_are_sentences(
    stories: Path, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(**options: Any) -> list[str]:
        options = {"max_length": 24, "num_proc": 1, "cache_dir": tmp_path} | options
        return [
            prepare(TextCorpus(stories), tokenizer, packing=p, **options).key for p in ("none", "full", "sentences")
        ]

    plain, french = keys(), keys(language="fr")
    monkeypatch.setattr("distillkit.data.sentences.version", lambda name: "0.0")
    other = keys()
    assert len(set(plain)) == 3 and plain[:2] == french[:2] == other[:2]
    assert len({plain[2], french[2], other[2]}) == 3


def test_corpus_is_refused_in_one_line_when_no_document_has_two_sentences(tokenizer, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("w1 w2.\nw3 w4.\nw5.\n")
    with pytest.raises(DataError, match=r"^data\.packing=sentences: no document has two sentences.*of one sentence\)"):
        prepare(TextCorpus(tmp_path / "lines.txt"), tokenizer, max_length=24, packing="sentences", cache_dir=tmp_path)
