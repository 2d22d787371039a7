"""Which tokens begin a word, held against what the tokenizers themselves say of real-looking text."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillkit.data.word_starts import WordStarts
from distillkit.errors import DataError
from tests.unit.data.word_tokenizers import TEXTS, UNSPACED, trained, wrapped

SIZES = {
    "wordpiece": 150, "byte_bpe": 340, "byte_bpe_prefixed": 340, "unigram": 150, "unigram_words": 150,
    "metaspace_bpe": 200, "suffix_bpe": 200,
}  # fmt: skip
"""Of vocabularies that cut many words of the texts."""
KINDS = list(SIZES)


def differences(tokenizer: PreTrainedTokenizerFast) -> tuple[list[list[str]], int]:
    """Where the tokenizer's own words begin elsewhere, with the two tokens before; and how many tokens begin none.

    Of pairs of texts; word_ids count each from 0 and are None for special tokens.
    """
    starts = pickle.loads(pickle.dumps(WordStarts(tokenizer)))
    wrong, inside = [], 0
    for text, other in zip(TEXTS, reversed(TEXTS), strict=True):
        encoding = tokenizer(text, other)
        found, tokens = starts(np.asarray(encoding["input_ids"], dtype=np.int32)), encoding.tokens()
        words = list(zip(encoding.sequence_ids(0), encoding.word_ids(0), strict=True))
        for place in range(1, len(words)):
            begins = words[place] != words[place - 1] or words[place][1] is None
            inside += not begins
            if found[place] != begins:
                wrong.append(tokens[max(0, place - 2) : place + 2])
    return wrong, inside


@pytest.mark.parametrize("kind", KINDS)
def test_words_begin_where_the_tokenizer_says_when_text_is_real(kind: str) -> None:
    wrong, inside = differences(trained(kind, SIZES[kind]))
    assert not wrong
    assert inside > 200, "few words have several pieces"


def test_words_begin_elsewhere_only_at_apostrophes_and_halves_of_characters_when_pieces_are_tiny() -> None:
    wrong, inside = differences(trained("byte_bpe", 300))
    assert 0 < len(wrong) < 0.02 * inside
    assert all({"'", "\u00e2\u0122"} & set(tokens) for tokens in wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_of_text_hold_no_blank_inside_when_they_are_words(kind: str) -> None:
    tokenizer = trained(kind, SIZES[kind])
    for text in TEXTS:
        encoding = tokenizer(text, return_offsets_mapping=True)
        heads = np.flatnonzero(WordStarts(tokenizer)(np.asarray(encoding["input_ids"])))
        for first, after in itertools.pairwise(heads[1:]):  # without [CLS]
            begin, end = encoding["offset_mapping"][first][0], encoding["offset_mapping"][after - 1][1]
            assert " " not in text[begin:end].strip()


@pytest.mark.parametrize(
    ("kind", "size", "expected"),
    [
        ("unigram", 150, "我|们|在|北|京|读|书。|学|生|用|BERT|模|型|写|论|文。"),
        ("unigram_words", 150, "東|京|タ|ワ|ー|は|333|メ|ー|ト|ル|で、|昨|年|行|き|ま|し|た。"),
        ("metaspace_bpe", 150, "ภ|า|ษ|า|ไ|ท|ย|เ|ขี|ย|น|ติ|ด|กั|น|ไ|ม่|มี|ช่|อ|ง|ว่|า|ง"),
        ("byte_bpe", 261, "我|们|在|北|京|读|书|。|学|生|用BERT|模|型|写|论|文|。"),  # no merges: a token a byte
        ("wordpiece", 150, "我|们|在|北|京|读|书|。|学|生|用|BERT|模|型|写|论|文|。"),
    ],
)
def test_pieces_are_words_when_a_script_has_no_blanks(kind: str, size: int, expected: str) -> None:
    tokenizer = trained(kind, size, (*UNSPACED, *TEXTS))
    text = next(text for text in UNSPACED if text[0] == expected[0])
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    heads = np.flatnonzero(WordStarts(tokenizer)(np.asarray(encoding["input_ids"]))).tolist()
    bounds = [encoding["offset_mapping"][head][0] for head in heads] + [len(text)]
    assert "|".join(text[begin:end] for begin, end in itertools.pairwise(bounds)) == expected


def test_punctuation_is_a_word_as_the_pre_tokenizer_cuts_when_it_has_no_mark() -> None:
    for kind, words in (("wordpiece", 4), ("byte_bpe", 4), ("unigram", 2)):
        tokenizer = trained(kind, SIZES[kind])
        ids = np.asarray(tokenizer("reading, writing.", add_special_tokens=False)["input_ids"])
        assert WordStarts(tokenizer)(ids).sum() == words, kind


def test_word_begins_after_a_special_token_and_at_the_start_when_the_piece_continues_one() -> None:
    tokenizer = trained("wordpiece", 150)
    piece = next(number for token, number in tokenizer.get_vocab().items() if token.startswith("##"))
    found = WordStarts(tokenizer)(np.asarray([2, piece, piece, 3, piece, 1, piece, piece]))
    assert found.tolist() == [True, True, False, True, True, True, True, False]
    assert WordStarts(tokenizer)(np.asarray([piece, piece])).tolist() == [True, False]


def test_tokenizer_is_refused_when_its_pieces_show_no_words() -> None:
    vocabulary = {
        token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    }
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(DataError, match=r"do not show where words begin; .*fix: set masking=token"):
        WordStarts(wrapped(backend))
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert WordStarts(wrapped(words))(np.asarray([2, 5, 6, 3])).all()
