"""What the tests of tagging and span share: rows by hand and tokenizers of both families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.faults.harness import WORDS, make_tokenizer


@dataclass
class Rows:
    """A source of rows by hand."""

    train: datasets.Dataset
    test: datasets.Dataset

    def read(self) -> dict[str, datasets.Dataset]:
        return {"train": self.train, "test": self.test}

    def fingerprint(self) -> dict[str, Any]:
        return {}


def wordpiece(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """BERT's kind: [CLS] question [SEP] context [SEP]; a word of "##" continues another."""
    tokenizer = make_tokenizer(words)
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def byte_level(text: list[str], *, prefix: bool = False) -> PreTrainedTokenizerFast:
    """RoBERTa's kind, trained on the text: a space belongs to the word after it, pairs have no types.

    Args:
        prefix: whether a text begins as if after a space.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=prefix)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
