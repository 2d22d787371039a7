"""The kinds of vocabularies: their special tokens, alphabets and least sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.errors import ConfigError
from tests.unit.vocabulary.made_texts import KINDS, PUBLISHED, SIZE, MadeCorpus, make_documents, trained


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_is_the_published_class_with_its_special_tokens_when_loaded(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", kind=kind, max_length=77)
    name, special = PUBLISHED[kind]
    assert type(tokenizer).__name__ == name and tokenizer.model_max_length == 77
    assert len(tokenizer) == SIZE == len(tokenizer.get_vocab())
    assert sorted(tokenizer.get_vocab().values()) == list(range(SIZE))
    assert tokenizer.convert_ids_to_tokens(range(5)) == special
    assert set(tokenizer.all_special_tokens) == set(special)
    assert tokenizer.mask_token in special and tokenizer.pad_token in special
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_pair_is_cls_a_sep_b_sep_with_segment_ids_when_encoded(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", kind=kind)
    first, second = tokenizer("kalo minu", add_special_tokens=False), tokenizer("stator", add_special_tokens=False)
    pair = tokenizer("kalo minu", "stator")
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert pair["input_ids"] == [cls, *first["input_ids"], sep, *second["input_ids"], sep]
    assert pair["token_type_ids"] == [0] * (len(first["input_ids"]) + 2) + [1] * (len(second["input_ids"]) + 1)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_case_and_accents_go_when_lower_case_is_asked_for(kind: str, tmp_path: Path) -> None:
    lower, cased = (trained(tmp_path / str(low), kind=kind, lower_case=low) for low in (True, False))
    assert lower.tokenize("CAFÉ kalo") == lower.tokenize("cafe KALO")
    assert not any(token != token.lower() for token in lower.get_vocab() if token not in lower.all_special_tokens)
    assert "é" in "".join(cased.get_vocab()) and cased.unk_token not in cased.tokenize("Café")
    assert "C" in "".join(t for t in cased.get_vocab() if t not in cased.all_special_tokens)


def test_words_of_known_characters_are_never_unknown_when_wordpiece(tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", MadeCorpus(["q x y zz zz zz"] * 50), vocab_size=30)
    assert tokenizer.tokenize("qxyz") == ["q", "##x", "##y", "##z"]
    assert tokenizer.tokenize("q7") == ["[UNK]"]


def test_chinese_characters_have_one_token_each_when_wordpiece(tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", MadeCorpus(["中文 abc 中 文"] * 3), vocab_size=40)
    assert tokenizer.tokenize("文中") == ["文", "中"]
    assert not {"##中", "##文"} & set(tokenizer.get_vocab()) and "##b" in tokenizer.get_vocab()


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_rare_characters_are_unknown_when_the_coverage_is_reached_without_them(kind: str, tmp_path: Path) -> None:
    texts = [*make_documents(), "☃"]
    for coverage, known in ((1.0, True), (0.999, False)):
        tokenizer = trained(tmp_path / str(coverage), MadeCorpus(texts), kind=kind, coverage=coverage)
        assert any("☃" in token for token in tokenizer.get_vocab()) is known


@pytest.mark.parametrize("kind", KINDS)
def test_lines_of_a_document_are_known_when_they_end(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", MadeCorpus(["kalo minu\nstator\tvelwi\u3000zu"] * 20), kind=kind)
    ids = tokenizer("minu\nstator\tvelwi\u3000zu")["input_ids"]
    assert tokenizer.unk_token_id not in ids and len(ids) > 4


def test_any_text_comes_back_when_bpe(tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", kind="bpe")
    text = "Kalo ☃ жук,\n  two  blanks"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
def test_size_is_refused_naming_the_least_when_too_small_for_the_alphabet(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.vocab_size=7: too small .*; allowed: >= (\d+);") as caught:
        trained(tmp_path / "out", kind=kind, vocab_size=7)
    least = int(str(caught.value.allowed).split()[-1])
    assert len(trained(tmp_path / "least", kind=kind, vocab_size=least)) == least
    with pytest.raises(ConfigError, match="too small"):
        trained(tmp_path / "out", kind=kind, vocab_size=least - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_is_smaller_than_asked_for_when_the_text_is_little(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(tmp_path / "out", MadeCorpus(["kalo minu kalo minu"]), kind=kind, vocab_size=5000)
    assert len(tokenizer) < 300
    assert tokenizer.unk_token not in tokenizer.tokenize("kalo minu")
