"""Which tokens of a row begin a word: from the marks in a fast tokenizer's pieces, and its pre-tokenizer."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import numpy as np
from tokenizers import decoders
from transformers import PreTrainedTokenizerFast

from distillkit.errors import DataError

_SPACE_MARK = "\u2581"
"""Of SentencePiece (Metaspace), in front of a word."""

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""Characters of scripts written without blanks: Thai, Lao, Burmese, Khmer, Han, kana, Bopomofo."""

_UNSPACED_LEADS = range(0xE3, 0xEA)
"""First bytes, in UTF-8, of U+3000 to U+9FFF: nearly all Han and kana."""

_PROBES = ("x", "\u0301", "1", ",", " ", "\n", "\u4e2d")
"""A character of each class: letter, combining mark, digit, anything else, blank, line end, unspaced letter."""

_BLANK, _UNSPACED_LETTER = _PROBES.index(" "), _PROBES.index("\u4e2d")
_UNKNOWN, _BORDER = len(_PROBES), len(_PROBES) + 1
"""Of a piece without a whole character; and of one after which a word begins, whatever comes."""


class WordStarts:
    """Tells which tokens of a row begin a word, as the tokenizer's own pre-tokenizer cuts text into words.

    WordPiece says it in the piece: all but those with ## begin a word, punctuation among them. Byte-level BPE and
    SentencePiece mark the blank before a word (Ġ, ▁). A piece without a mark begins a word when the pre-tokenizer cuts
    between the last character before it and its first one; that is asked once for every pair of classes of characters.
    So "world." is two words to RoBERTa, whose pre-tokenizer cuts before punctuation, and one to ALBERT, whose does not
    (google-research/albert, `_is_start_piece_sp`, makes punctuation a word of its own). The token after a special one
    begins a word always: RoBERTa's first word has no mark, and a block may start within a word.

    Where a script has no blanks (`_UNSPACED`), a pre-tokenizer that cuts at blanks takes a whole clause for a word. So
    there the piece is the word, as in ALBERT's code: one that begins with such a letter begins a word, and so do
    letters of other scripts and digits after it; punctuation and combining marks stay with what they follow. WordPiece
    keeps the rule of its mark: BERT's pre-tokenizer cuts Han into characters itself.

    Not told apart: what a pre-tokenizer decides by more than the two characters, such as an apostrophe that is a piece
    of its own in "don't".

    Args:
        tokenizer: a fast one.

    Raises:
        DataError: its pieces do not show where words begin.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        model, vocabulary = backend["model"], tokenizer.get_vocab()
        prefix, suffix = (model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
        size = max(vocabulary.values()) + 1
        self._opens = np.zeros(size, dtype=bool)
        self._first, self._last = np.full(size, _UNKNOWN, dtype=np.int8), np.full(size, _UNKNOWN, dtype=np.int8)
        self._cuts = np.zeros((_BORDER + 1, _BORDER + 1), dtype=bool)
        self._cuts[_BORDER] = True
        if prefix or model["type"] == "WordLevel":
            for token, number in vocabulary.items():
                self._opens[number] = not (prefix and token.startswith(prefix))
        elif suffix:
            self._last[[number for token, number in vocabulary.items() if token.endswith(suffix)]] = _BORDER
        else:
            self._read(tokenizer, vocabulary, byte_level=_has_type(backend, "ByteLevel"))
        self._opens[tokenizer.all_special_ids], self._last[tokenizer.all_special_ids] = True, _BORDER

    def __call__(self, input_ids: np.ndarray) -> np.ndarray:
        """[T] bool, whether each of the [T] tokens begins a word; special tokens do."""
        starts = self._opens[input_ids]
        starts[0] = True
        starts[1:] |= self._cuts[self._last[input_ids[:-1]], self._first[input_ids[1:]]]
        return starts

    def _read(self, tokenizer: PreTrainedTokenizerFast, vocabulary: dict[str, int], *, byte_level: bool) -> None:
        """Fill the tables from the text of every piece."""
        special, text_of = set(tokenizer.all_special_ids), decoders.ByteLevel()
        for token, number in vocabulary.items():
            text = text_of.decode([token]) if byte_level else token.replace(_SPACE_MARK, " ")
            self._opens[number] = text.startswith(" ")
            if text and number not in special:
                self._first[number], self._last[number] = _class_of(text[0]), _class_of(text[-1])
                if (
                    byte_level and text[0] == "\ufffd" and ord(token[0]) in _UNSPACED_LEADS
                ):  # bytes stand for themselves
                    self._first[number] = _UNSPACED_LETTER
        if not self._opens.any():
            raise DataError(
                "the tokenizer's pieces do not show where words begin",
                key="tokenizer.path",
                value=tokenizer.name_or_path,
                allowed="WordPiece (##), byte-level BPE or SentencePiece",
                fix="set masking=token",
            )
        if (pre_tokenizer := tokenizer.backend_tokenizer.pre_tokenizer) is not None:
            for a, before in enumerate(_PROBES):
                for b, after in enumerate(_PROBES):
                    pieces = pre_tokenizer.pre_tokenize_str(before + after)
                    self._cuts[a, b] = any(start == 1 for _, (start, _) in pieces)
        self._cuts[:, _UNSPACED_LETTER] = True
        self._cuts[_UNSPACED_LETTER, [_PROBES.index("x"), _PROBES.index("1")]] = True
        self._cuts[_BLANK] = False  # what follows a mark alone is the word it stands before


def _class_of(character: str) -> int:
    if character in " \ufffd":
        return _BLANK if character == " " else _UNKNOWN
    if character.isspace():
        return _PROBES.index("\n")
    kind = {"L": 0, "M": 1, "N": 2}.get(unicodedata.category(character)[0], 3)
    return _UNSPACED_LETTER if kind == 0 and _UNSPACED.match(character) else kind


def _has_type(node: Any, name: str) -> bool:
    """Whether a part of a tokenizer's description is of that type, at any depth; the vocabulary is not searched."""
    if isinstance(node, list):
        return any(_has_type(part, name) for part in node)
    if not isinstance(node, dict):
        return False
    return node.get("type") == name or any(
        _has_type(part, name) for key, part in node.items() if key not in ("model", "added_tokens")
    )
