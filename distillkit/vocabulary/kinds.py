"""The kinds of vocabularies, each a stock transformers tokenizer whose tokens come out of a kept library's trainer.

Equal text gives equal tokens, to the byte, whatever the process and its threads. Left alone the trainers do not: those
of tokenizers walk through hash tables whose order changes with every process.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import AlbertTokenizer, BertTokenizer, PreTrainedTokenizerFast, RobertaTokenizer

from distillkit.errors import ConfigError, DataError

Texts = Callable[[str], Iterator[list[str]]]
"""Batches of documents, from the first, each time it is called with what is being done."""

_MIN_FREQUENCY = 2
"""A token made of others occurs at least so often, as in tokenizers' own BERT and RoBERTa recipes."""

_THREADS = 4
"""Of sentencepiece: they add up parts of a sum, so that the machine's cores must not decide."""

_INPUTS = ["input_ids", "token_type_ids", "attention_mask"]


class Wanted(NamedTuple):
    """What a vocabulary is to be.

    Attributes:
        size: most tokens, special ones included; a small corpus gives fewer.
        lower_case: lower case, without accents.
        coverage: in (0, 1], the share of the corpus' characters that the alphabet covers; the rare rest is unknown.
        work: a folder for what a trainer reads from disk; who gives it removes it.
    """

    size: int
    lower_case: bool
    coverage: float
    work: Path


def train_wordpiece(texts: Texts, wanted: Wanted) -> PreTrainedTokenizerFast:
    """BERT's: words at blanks and punctuation, cut into a beginning and ##continuations.

    Every character of the alphabet that can go on a word is in it in both forms, so that words of known characters
    are never unknown.

    Args:
        texts: read twice.
        wanted: see Wanted.

    Raises:
        ConfigError: the size is too small for the alphabet.
        DataError: no character is left of the text.

    Source: Devlin et al. 2018; merges by frequency, as in tokenizers, whose WordPiece is trained like BPE.
    """
    options: dict[str, Any] = {"do_lower_case": wanted.lower_case, "strip_accents": wanted.lower_case}
    template = BertTokenizer(**options)
    pipeline: Tokenizer = template.backend_tokenizer
    alphabet = _alphabet(texts, pipeline, wanted.coverage)
    beside = {char: pipeline.normalizer.normalize_str(f"a{char}") for char in alphabet}
    # a character beside a letter stays with it, or is a word of its own: punctuation, Chinese
    inner = [char for char in alphabet if len(pipeline.pre_tokenizer.pre_tokenize_str(beside[char])) == 1]
    first = [*template.convert_ids_to_tokens(list(range(len(template)))), *alphabet]
    _check_size(wanted.size, len(first) + len(inner))
    trainer = WordPieceTrainer(
        vocab_size=wanted.size, min_frequency=_MIN_FREQUENCY, show_progress=False,
        initial_alphabet=alphabet, limit_alphabet=len(alphabet),
        special_tokens=[*first, *(f"##{char}" for char in inner)],  # so they get their ids in this order, not by chance
    )  # fmt: skip
    pipeline.train_from_iterator(texts("training"), trainer)
    return BertTokenizer(vocab=json.loads(pipeline.to_str())["model"]["vocab"], **options)


def train_unigram(texts: Texts, wanted: Wanted) -> PreTrainedTokenizerFast:
    """ALBERT's: SentencePiece's unigram language model, ids 0 to 4 as published.

    sentencepiece trains from words and their counts, in sorted order; tokenizers' own trainer adds floats up by chance.

    Args:
        texts: read once; memory holds the distinct words.
        wanted: see Wanted.

    Raises:
        ConfigError: the size is too small for the alphabet.
        DataError: no word is left of the text, or none that sentencepiece takes.

    Source: Kudo 2018 (arXiv 1804.10959); Lan et al. 2019, section 4.1.
    """
    lower_case = wanted.lower_case
    options: dict[str, Any] = {
        "do_lower_case": lower_case, "keep_accents": not lower_case, "model_input_names": _INPUTS,
    }  # fmt: skip
    template = AlbertTokenizer(**options)
    special = [(token, 0.0) for token in template.convert_ids_to_tokens(list(range(len(template))))]
    words: Counter[str] = Counter()
    for batch in texts("counting words"):
        words.update(template.backend_tokenizer.normalizer.normalize_str("\n".join(batch)).split())
    _check_left(words)
    pieces = _unigram_pieces(words, wanted, len(special))
    return AlbertTokenizer(vocab=special + [piece for piece in pieces if piece[0] not in dict(special)], **options)


def _unigram_pieces(words: Counter[str], wanted: Wanted, special: int) -> list[tuple[str, float]]:
    """Pieces and their log probabilities, most probable first, for the places that special tokens leave."""
    proto, table = io.BytesIO(), wanted.work / "words.tsv"
    with table.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word}\t{count}\n" for word, count in sorted(words.items()))
    try:
        sentencepiece.SentencePieceTrainer.train(
            input=str(table), input_format="tsv", model_writer=proto, model_type="unigram",
            vocab_size=max(wanted.size - special, 0) + 1,  # and sentencepiece's own <unk>
            hard_vocab_limit=False, character_coverage=wanted.coverage, normalization_rule_name="identity",
            unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1, num_threads=_THREADS, minloglevel=3,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        needed = re.search(r"required_chars\D+\d+ vs (\d+)", str(error))
        if needed:
            _check_size(wanted.size, special + int(needed[1]) - 1)
        raise DataError(f"sentencepiece finds nothing to train from ({error})", key="tokenizer.kind", value="unigram",
                        fix="give more text, or another kind") from error  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=proto.getvalue())
    return [(model.id_to_piece(number), model.get_score(number)) for number in range(1, len(model))]


def train_bpe(texts: Texts, wanted: Wanted) -> PreTrainedTokenizerFast:
    """RoBERTa's: byte pairs merged by frequency; the text stays as it is and nothing is unknown.

    Args:
        texts: read once.
        wanted: of it the size alone counts.

    Raises:
        ConfigError: the size is too small for the 256 bytes.

    Source: Radford et al. 2019; Liu et al. 2019. Ids 0 to 3 as published, which RobertaConfig expects; <mask> is 4.
    """
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = sorted(ByteLevel.alphabet())
    _check_size(wanted.size, len(special) + len(alphabet))
    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = RobertaTokenizer().backend_tokenizer.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=wanted.size, min_frequency=_MIN_FREQUENCY, show_progress=False, special_tokens=special,
        initial_alphabet=alphabet,
    )  # fmt: skip
    pipeline.train_from_iterator(texts("training"), trainer)
    trained = json.loads(pipeline.to_str())["model"]
    merges: Any = [tuple(pair) for pair in trained["merges"]]  # annotated as list[str], which tokenizers refuses
    return RobertaTokenizer(vocab=trained["vocab"], merges=merges)


KINDS: dict[str, Callable[[Texts, Wanted], PreTrainedTokenizerFast]] = {
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
    "bpe": train_bpe,
}


def _alphabet(texts: Texts, pipeline: Tokenizer, coverage: float) -> list[str]:
    """The most frequent characters of the normalised text that make up the coverage, by code point."""
    counts: Counter[str] = Counter()
    for batch in texts("counting characters"):
        counts.update(pipeline.normalizer.normalize_str("\n".join(batch)))
    counts = Counter({char: count for char, count in counts.items() if not char.isspace()})
    _check_left(counts)
    needed, chosen = coverage * counts.total(), list[str]()
    for char, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if needed <= 0:
            break
        chosen.append(char)
        needed -= count
    return sorted(chosen)


def _check_left(counts: Counter[str]) -> None:
    if not counts:
        raise DataError("nothing is left of the text without accents and control characters", fix="give other text")


def _check_size(size: int, needed: int) -> None:
    if size < needed:
        raise ConfigError("too small for the special tokens and the alphabet", key="tokenizer.vocab_size", value=size,
                          allowed=f">= {needed}", fix="set a larger one, or a smaller tokenizer.coverage")  # fmt: skip
