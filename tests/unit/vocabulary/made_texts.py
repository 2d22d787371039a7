"""Text with words of its own, a corpus that is nothing but its documents, and what is trained from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distillkit.data.splitting import Splits
from distillkit.vocabulary import train_tokenizer

KINDS = ["wordpiece", "unigram", "bpe"]

SIZE = 300

PUBLISHED = {
    "wordpiece": ("BertTokenizer", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]),
    "unigram": ("AlbertTokenizer", ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
    "bpe": ("RobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]),
}

SYLLABLES = (
    *("ka", "lo", "mi", "nu", "re", "sta", "tor", "vel", "wi", "zu", "ing", "er", "ly", "be", "cho", "dra", "fi"),
    *("gul", "hap", "jen", "pon", "qua", "sil", "tum", "xe", "yor", "ous", "ent"),
)


def make_documents(count: int = 300, *, seed: int = 0) -> list[str]:
    """Documents of words that syllables make up, capitals and marks among them; many words are equally frequent."""
    rng = np.random.default_rng(seed)
    words = sorted({"".join(rng.choice(SYLLABLES, size=rng.integers(1, 4))) for _ in range(1500)})
    return [" ".join(rng.choice(words, size=rng.integers(5, 30))).capitalize() + " Café!" for _ in range(count)]


class MadeCorpus:
    """Documents given as lists."""

    def __init__(self, train: list[str], valid: list[str] | None = None) -> None:
        self.train, self.valid = train, valid

    def fingerprint(self) -> dict[str, Any]:
        return {}

    def splits(self, cache_dir: Path) -> Splits:
        train, valid = (
            None if texts is None else datasets.Dataset.from_dict({"text": texts}) for texts in (self.train, self.valid)
        )
        assert train is not None
        return Splits(train, valid, 0)


def trained(folder: Path, corpus: MadeCorpus | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """The tokenizer, as it loads from its folder."""
    train_tokenizer(corpus or MadeCorpus(make_documents()), folder, **({"vocab_size": SIZE} | options))
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)  # type: ignore[return-value]
