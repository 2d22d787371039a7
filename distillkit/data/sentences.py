"""Where the sentences of a text end, in characters and in tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from itertools import accumulate

import numpy as np
import sentencex
from tokenizers import Encoding

from distillkit.errors import ConfigError

_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,})*")

_BLANKS = {code: " " for code in range(0x80, 0x3001) if chr(code).isspace()}
"""Blanks beyond ASCII as a space: sentencex (1.0.32) panics where one stands between a capital and a full stop."""


def check_language(language: str) -> None:
    """Raise ConfigError unless this is a language's code; one without rules of its own is read by those of another."""
    if not isinstance(language, str) or not _CODE.fullmatch(language):
        raise ConfigError(
            "not the code of a language", key="data.language", value=language, allowed="ISO 639, such as en, de, zh",
            fix="set data.language=en",
        )  # fmt: skip


def segmenter_identity(language: str) -> list[str]:
    """What decides where sentences end, besides the text: another version may see them elsewhere."""
    return ["sentencex.get_sentence_boundaries", version("sentencex"), language]


def sentence_lengths(pieces: Sequence[str], encodings: Iterable[Encoding], language: str) -> list[int]:
    """Tokens of each sentence of a document.

    A token belongs to the sentence of its last character: tokens that take the space before a word along (byte-level
    BPE, SentencePiece) begin in the sentence before.

    Args:
        pieces: of the text, one after the other.
        encodings: of the pieces, with the offsets of the tokens in characters.
        language: its code.

    Returns:
        Numbers of tokens, none of them 0; they add up to those of the encodings.
    """
    # not from the sentences' lengths: those of a text beyond 10,000 characters leave out blank lines (1.0.32)
    found = sentencex.get_sentence_boundaries(language, "".join(pieces).translate(_BLANKS))
    ends = [sentence["end_index"] for sentence in found]
    starts = accumulate(map(len, pieces), initial=0)
    last = [
        max(start + end - 1, 0)
        for start, encoding in zip(starts, encodings, strict=False)
        for _, end in encoding.offsets
    ]
    counts = np.bincount(np.searchsorted(ends, np.maximum.accumulate(last), side="right")) if last else np.empty(0, int)
    return counts[counts > 0].tolist()
