"""Documents to ids, ids to rows."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from distillkit.data.packing import Packer, Ragged, write_rows
from distillkit.data.tokenization import Frame, frame_of, tokenize, tokenizer_identity
from distillkit.errors import DataError

CLS, SEP = 2, 3


def ragged(*documents: list[int]) -> Ragged:
    values = np.asarray([token for document in documents for token in document], dtype=np.int32)
    return Ragged(values, np.asarray([len(document) for document in documents]))


def rows_of(packer: Packer, *batches: Ragged) -> list[list[int]]:
    packed = list(packer.pack(batches))
    return [row.tolist() for part in packed for row in np.split(part.values, np.cumsum(part.lengths)[:-1]) if len(row)]


def test_full_packing_joins_documents_into_exact_blocks_when_they_arrive_in_any_batches() -> None:
    documents = [[10, 11, 12], [], [13], [14, 15, 16, 17, 18], [19, 20]]
    stream = [10, 11, 12, SEP, 13, SEP, 14, 15, 16, 17, 18, SEP, 19, 20, SEP]
    expected = [[CLS, *stream[i : i + 4], SEP] for i in range(0, 12, 4)]
    for batches in ([ragged(*documents)], [ragged(document) for document in documents]):
        packer = Packer("full", Frame(CLS, SEP), 6)
        assert rows_of(packer, *batches) == expected
        assert packer.counts == {"documents": 5, "empty_documents": 1, "tokens": 11, "dropped_tokens": 3, "rows": 3}


def test_single_packing_keeps_one_document_a_row_when_it_is_short_long_or_empty() -> None:
    packer = Packer("none", Frame(CLS, SEP), 6)
    rows = rows_of(packer, ragged([10], [], [11, 12, 13, 14]), ragged([15, 16, 17, 18, 19, 20]), ragged([]))
    assert rows == [[CLS, 10, SEP], [CLS, 11, 12, 13, 14, SEP], [CLS, 15, 16, 17, 18, SEP]]
    assert packer.counts == {"documents": 5, "empty_documents": 2, "tokens": 11, "dropped_tokens": 2, "rows": 3}


def test_write_rows_counts_maskable_tokens_when_rows_hold_special_ones(tmp_path: Path) -> None:
    parts = [ragged([CLS, 10, SEP, 11, SEP], [CLS, 1, SEP]), ragged(), ragged([CLS, 12, 13, SEP])]
    write_rows(parts, tmp_path / "rows.arrow", special_ids=[0, 1, 2, 3, 4])
    rows = datasets.Dataset.from_file(str(tmp_path / "rows.arrow"))
    assert rows["input_ids"][:] == [[CLS, 10, SEP, 11, SEP], [CLS, 1, SEP], [CLS, 12, 13, SEP]]
    assert (rows["length"][:], rows["maskable"][:]) == ([5, 3, 4], [2, 0, 2])
    assert rows.features["input_ids"].feature.dtype == "int32"


def test_tokenize_gives_the_tokenizers_own_ids_when_it_is_set_to_truncate_or_texts_are_long(
    tmp_path: Path, make_tokenizer, make_texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillkit.data.tokenization._PIECE", 50)
    tokenizer = make_tokenizer()
    texts = [*make_texts(20), "w1" * 200, "unknown W5 [MASK] w5a", "€"]
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    tokens = tokenize(datasets.Dataset.from_dict({"text": texts}), tokenizer, tmp_path / "ids.arrow", num_proc=1)
    assert tokens["ids"][:] == expected


def test_frame_takes_bos_and_eos_when_there_is_no_cls_or_sep(make_tokenizer) -> None:
    assert frame_of(make_tokenizer()) == (2, 3)
    assert frame_of(make_tokenizer(cls_token=None, sep_token=None, bos_token="w0", eos_token="w1")) == (5, 6)
    with pytest.raises(DataError, match=r"tokenizer\.path=.*neither cls and sep"):
        frame_of(make_tokenizer(sep_token=None))


def test_tokenizer_identity_changes_when_and_only_when_ids_can(make_tokenizer) -> None:
    same, padded, added, masked = (make_tokenizer() for _ in range(4))
    padded.backend_tokenizer.enable_padding(length=9)
    added.add_tokens(["w1000"])
    masked.mask_token = "w1"
    framed = make_tokenizer(cls_token="[SEP]", sep_token="[CLS]")
    assert tokenizer_identity(padded) == tokenizer_identity(same)
    assert len({tokenizer_identity(one) for one in (same, added, framed, masked)}) == 4
