"""Tokenizers of every kind that marks words, trained on a few lines, and the lines."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

TEXTS = (
    "Dr. Ellen Haug's third novel, \u201cThe Salt Road\u201d, came out in 2019 (for $24.99) and isn't easy reading.",
    "It's set in the north: cold, wind-blown villages, two ferries a week, and nobody who'd tell you the way!",
    'Readers asked: \u201cWhy 1,250 pages?\u201d; she answered, "because I couldn\'t write 900." Fair enough...',
    "The caf\u00e9 on the quay, the na\u00efve teacher, the priest's unbelievable, unreadable letters: it's all true.",
    "In 1987/88 the writers' union (est. 1921) had 3045 members; 12% of them couldn't live off writing.",
    "  Overlong, under-edited, unforgettable  -  that was the reviewers' verdict; they weren't wrong, were they?",
)

UNSPACED = (
    "我们在北京读书。学生用BERT模型写论文。",
    "東京タワーは333メートルで、昨年行きました。",
    "ภาษาไทยเขียนติดกันไม่มีช่องว่าง",
)
"""Chinese, Japanese and Thai, which no blank cuts into words."""


def trained(kind: str, size: int, texts: Sequence[str] = TEXTS) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` pieces, or as many as it must have.

    Args:
        kind: "wordpiece" (BERT), "byte_bpe" (RoBERTa: the first word of a text has no mark), "byte_bpe_prefixed",
            "unigram" (ALBERT), "unigram_words" (XLM-R), "metaspace_bpe", or "suffix_bpe" (HerBERT: marks word ends).
        size: of the vocabulary.
        texts: to train it on.
    """
    options = {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    if kind == "wordpiece":
        backend, trainer = Tokenizer(models.WordPiece(unk_token="[UNK]")), trainers.WordPieceTrainer(**options)
        backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    elif kind.startswith("byte_bpe"):
        backend = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind.endswith("prefixed"))
    elif kind.startswith("unigram"):
        backend, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(unk_token="[UNK]", **options)
        spaces = pre_tokenizers.Metaspace()
        words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaces])
        backend.pre_tokenizer = words if kind == "unigram_words" else spaces
    elif kind == "metaspace_bpe":
        backend, trainer = Tokenizer(models.BPE(unk_token="[UNK]")), trainers.BpeTrainer(**options)
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        backend = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
        trainer = trainers.BpeTrainer(end_of_word_suffix="</w>", **options)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator([text for text in texts for _ in range(8)], trainer)
    return wrapped(backend)


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """With [CLS] text [SEP], or [CLS] one [SEP] other [SEP]."""
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))
