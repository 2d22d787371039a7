"""A tokenizer and texts small enough to reason about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{number}" for number in range(90)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_tokenizer(**tokens: str | None) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of 100 ids: 5 special ones, 90 words, 5 continuations; `tokens` overrides special ones."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *WORDS, *(f"##{d}" for d in "abcde")])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**names, "mask_token": "[MASK]", **tokens})


def make_texts(count: int, *, longest: int = 60, seed: int = 0) -> list[str]:
    """Texts of 1 to `longest` known words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(count)]


@pytest.fixture(scope="session", name="make_tokenizer")
def make_tokenizer_fixture() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture(scope="session", name="make_texts")
def make_texts_fixture() -> Callable[..., list[str]]:
    return make_texts


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 lines, one document each."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n".join(make_texts(400)) + "\n")
    return path
