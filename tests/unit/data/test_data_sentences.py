"""Tokens of the sentences of a text: the same tokens, told apart at the ends of sentences."""

from __future__ import annotations

from itertools import accumulate, pairwise
from pathlib import Path

import datasets
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillkit.data.sentences import check_language, segmenter_identity
from distillkit.data.tokenization import tokenize
from distillkit.errors import ConfigError

TEXTS = [
    "One w1 w2. Two w3! Is it w4? Dr. Smith said so.",
    "w1 w2 without an end",
    "Ends here.   \n\n  A paragraph begins.\nThe line goes on.",
    "Das geht über é w1. 你好。世界。",
]
SENTENCES = [
    ["One w1 w2.", "Two w3!", "Is it w4?", "Dr. Smith said so."],
    ["w1 w2 without an end"],
    ["Ends here.", "A paragraph begins.", "The line goes on."],
    ["Das geht über é w1.", "你好。", "世界。"],
]


def byte_level(trim: bool) -> PreTrainedTokenizerFast:
    """Every byte a token, the space before a word among those of the word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    first, second = alphabet[:2]
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token=first, sep_token=second)


def metaspace() -> PreTrainedTokenizerFast:
    """SentencePiece's way: words and the space before them as one piece."""
    words = {word for text in TEXTS for word in text.split()}
    pieces = [("<unk>", 0.0), ("▁", -5.0), *((f"▁{word}", -1.0) for word in sorted(words))]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="<unk>", sep_token="▁")


def read(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, folder: Path, language: str | None = "en"
) -> datasets.Dataset:
    documents = datasets.Dataset.from_dict({"text": texts})
    return tokenize(documents, tokenizer, folder / f"{language}.arrow", num_proc=1, language=language)


def in_sentences(tokens: datasets.Dataset) -> list[list[list[int]]]:
    """Ids of each sentence of each document."""
    return [
        [ids[a:b] for a, b in pairwise(accumulate(lengths, initial=0))]
        for ids, lengths in zip(tokens["ids"][:], tokens["sentences"][:], strict=True)
    ]


def test_sentences_hold_the_tokens_they_have_alone_when_words_are_split_at_blanks(
    tmp_path: Path, make_tokenizer
) -> None:
    tokenizer = make_tokenizer()
    expected = [[tokenizer(s, add_special_tokens=False)["input_ids"] for s in text] for text in SENTENCES]
    assert in_sentences(read(TEXTS, tokenizer, tmp_path)) == expected


@pytest.mark.parametrize("make", [metaspace, lambda: byte_level(True), lambda: byte_level(False)])
def test_sentences_begin_with_their_first_word_when_tokens_take_the_blank_before_it_along(make, tmp_path: Path) -> None:
    tokenizer = make()
    for text, sentences in zip(in_sentences(read(TEXTS[:1], tokenizer, tmp_path)), SENTENCES[:1], strict=True):
        assert [tokenizer.decode(ids).strip() for ids in text] == sentences


def test_ids_are_the_same_when_sentences_are_looked_for(tmp_path: Path, make_tokenizer, make_texts) -> None:
    texts = [*TEXTS, *make_texts(20)]
    with_sentences, without = (read(texts, make_tokenizer(), tmp_path, language) for language in ("de", None))
    assert with_sentences["ids"][:] == without["ids"][:]
    assert [sum(s) for s in with_sentences["sentences"][:]] == [len(ids) for ids in without["ids"][:]]
    assert without.column_names == ["ids"]


def test_sentence_goes_on_when_a_long_text_is_tokenized_in_pieces(
    tmp_path: Path, make_tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(f"w{n} w{n + 1} w{n + 2}." for n in range(40))
    whole = read([text], make_tokenizer(), tmp_path)["sentences"][:]
    monkeypatch.setattr("distillkit.data.tokenization._PIECE", 20)
    assert read([text], make_tokenizer(), tmp_path)["sentences"][:] == whole == [[4] * 40]


def test_sentences_end_at_their_period_when_a_document_of_paragraphs_is_long(tmp_path: Path, make_tokenizer) -> None:
    paragraph = " ".join(f"w{n} w{n + 1} w{n + 2}." for n in range(20))
    text = "\n\n".join([paragraph] * 140)
    assert len(text) > 3 * 10_240, "of one of sentencex's own pieces"
    assert read([text], make_tokenizer(), tmp_path)["sentences"][:] == [[4] * 20 * 140]


@pytest.mark.parametrize("blank", ["\u00a0", "\u2009", "\u202f", "\u3000"])
def test_sentences_are_those_of_a_space_when_a_wide_blank_stands_before_a_full_stop(
    blank: str, tmp_path: Path, make_tokenizer
) -> None:
    texts = [f"w1 w2 w3 A{blank}. w4 w5. C{blank}. It w6. Two w7."]
    wide = read(texts, make_tokenizer(), tmp_path / "wide")
    assert wide["sentences"][:] == read([texts[0].replace(blank, " ")], make_tokenizer(), tmp_path)["sentences"][:]


def test_document_has_no_sentence_when_it_has_no_token(tmp_path: Path, make_tokenizer) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    assert read([" ", "w1."], tokenizer, tmp_path)["sentences"][:] == [[], [2]]


@pytest.mark.parametrize("language", ["", "English", "e", "en us", 3, None])
def test_language_is_refused_in_one_line_when_it_is_no_code(language) -> None:
    with pytest.raises(ConfigError, match=r"^data\.language=.*: not the code of a language; .*fix: set data"):
        check_language(language)


def test_segmenter_identity_names_version_and_language_when_asked() -> None:
    check_language("zh-Hant")
    name, version, language = segmenter_identity("zh-Hant")
    assert (name.split(".")[0], language) == ("sentencex", "zh-Hant") and version[0].isdigit()
