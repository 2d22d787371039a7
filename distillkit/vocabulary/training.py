"""A tokenizer trained from the documents that a model would be trained on, measured on those it would not."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerFast

from distillkit.data.cache import open_documents
from distillkit.data.corpus import Corpus
from distillkit.data.splitting import DOCUMENTS_PER_BATCH, Splits
from distillkit.errors import ConfigError, StorageError
from distillkit.locking import FolderLock
from distillkit.progress import activity
from distillkit.storage import new_folder
from distillkit.vocabulary.kinds import KINDS, Wanted

_MEASURED = 2000
"""Held-out documents that the summary looks at."""

_MOST_TOKENS = 1_000_000
"""Trainers reserve memory for the size asked for; the largest published vocabularies have some 250,000 tokens."""


def train_tokenizer(
    corpus: Corpus,
    output: str | Path,
    *,
    kind: str = "wordpiece",
    vocab_size: int = 30000,
    lower_case: bool = True,
    coverage: float = 0.99995,
    max_length: int = 512,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Trains a tokenizer and writes it as a folder that AutoTokenizer loads, whole or not at all.

    The text is streamed from disk; memory grows with its distinct words. The same text gives the same files.

    Args:
        corpus: its held-out documents are not trained on.
        output: a new or empty folder.
        kind: "wordpiece", "unigram" or "bpe".
        vocab_size: most tokens, special ones included, at most 1,000,000; little text gives fewer.
        lower_case: lower case, without accents; of no effect on bpe.
        coverage: share of the characters that the alphabet covers, in (0, 1]; of no effect on bpe.
        max_length: the tokenizer's model_max_length, in tokens.
        cache_dir: where the documents are kept meanwhile; default $DISTILLKIT_CACHE, else ~/.cache/distillkit.

    Returns:
        "folder", "class", "kind", "tokens", "asked" (the size), "documents", and "held_out" (see `measure`; None
        without such documents).

    Raises:
        ConfigError: an argument is out of range, the folder holds something, or the size is too small.
        DataError: the corpus is unusable.
        RunStateError: another process trains into this folder.
        StorageError: the folder or the cache cannot be written.
    """
    _check(kind, vocab_size, lower_case, coverage, max_length)
    with (
        _held(output) as (place, work),
        activity("reading the text") as say,
        open_documents(corpus, cache_dir) as splits,
    ):
        tokenizer = KINDS[kind](_texts(splits.train, say), Wanted(vocab_size, lower_case, coverage, work))
        tokenizer.model_max_length = max_length
        facts = _facts(tokenizer, splits)
        with new_folder(place) as staging:
            tokenizer.save_pretrained(staging)
    return {"folder": str(output), "class": type(tokenizer).__name__, "kind": kind, "asked": vocab_size, **facts}


def _check(kind: str, vocab_size: int, lower_case: bool, coverage: float, max_length: int) -> None:
    """Refuses what can be seen to be wrong before anything is read."""
    if kind not in KINDS:
        raise ConfigError("no such kind", key="tokenizer.kind", value=kind, allowed=", ".join(KINDS))
    for key, number, least, example in (("vocab_size", vocab_size, 1, 30000), ("max_length", max_length, 8, 512)):
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= _MOST_TOKENS:
            raise ConfigError("not a number of tokens in the allowed range", key=f"tokenizer.{key}", value=number,
                              allowed=f"{least}..{_MOST_TOKENS}", fix=f"set tokenizer.{key}={example}")  # fmt: skip
    if not isinstance(lower_case, bool):
        raise ConfigError("not a switch", key="tokenizer.lower_case", value=lower_case, allowed="true, false")
    if not isinstance(coverage, int | float) or not 0 < coverage <= 1:
        raise ConfigError("not a share of the characters", key="tokenizer.coverage", value=coverage, allowed="(0, 1]",
                          fix="set tokenizer.coverage=0.99995")  # fmt: skip


@contextlib.contextmanager
def _held(output: str | Path) -> Iterator[tuple[Path, Path]]:
    """The place of the tokenizer, which no other process trains into meanwhile, and a folder beside it to work in.

    What a killed process left in the folder beside it goes with the next one's. Nothing made here stays but the place.
    """
    if not output:
        raise ConfigError("no folder is given", key="output", value=output, fix="set output=FOLDER")
    place = Path(os.path.expanduser(output)).resolve()
    work = place.parent / f".training-{place.name}"
    made = [parent for parent in work.parents if not parent.exists()]
    with contextlib.ExitStack() as stack:
        for folder in reversed(made):
            stack.callback(_remove_empty, folder)
        try:
            work.mkdir(parents=True, exist_ok=True)
            stack.callback(FolderLock(work, key="output", value=output).release)
        except OSError as error:
            raise StorageError(f"cannot be written: {error.strerror}", key="output", value=output,
                               fix="name another folder") from error  # fmt: skip
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            raise ConfigError("holds something already", key="output", value=output, fix="name a new folder")
        yield place, work


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _texts(documents: datasets.Dataset, say: Callable[[str], None]) -> Callable[[str], Iterator[list[str]]]:
    def batches(doing: str) -> Iterator[list[str]]:
        batched = documents.with_format("arrow").iter(DOCUMENTS_PER_BATCH)
        for number, table in enumerate(batched):
            say(f"{doing}: {number * DOCUMENTS_PER_BATCH:,} of {len(documents):,} documents read")
            yield table.column("text").to_pylist()
        say(f"working out the vocabulary: all {len(documents):,} documents are read")

    return batches


def _facts(tokenizer: PreTrainedTokenizerFast, splits: Splits) -> dict[str, Any]:
    held_out = None
    if splits.valid is not None:
        held_out = measure(tokenizer, splits.valid.select(range(min(len(splits.valid), _MEASURED)))["text"][:])
    return {"tokens": len(tokenizer), "documents": len(splits.train), "held_out": held_out}


def measure(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, Any]:
    """How a tokenizer cuts text: documents, tokens_per_word, characters_per_token, unknown_share (of the tokens).

    Words stand between blanks; special tokens around a text are left out.
    """
    rows = [row.ids for row in tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    tokens = max(sum(map(len, rows)), 1)
    words = sum(len(text.split()) for text in texts)
    unknown = sum(row.count(tokenizer.unk_token_id) for row in rows)
    return {
        "documents": len(texts),
        "tokens_per_word": tokens / words,
        "characters_per_token": sum(map(len, texts)) / tokens,
        "unknown_share": unknown / tokens,
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts of `train_tokenizer` for a person."""
    what = f"{facts['tokens']:,} tokens ({facts['class']}), from {facts['documents']:,} documents"
    lines = [f"tokenizer: {facts['folder']}: {what}"]
    if facts["tokens"] < facts["asked"]:
        lines.append(f"fewer than the {facts['asked']:,} asked for: the text gives no more")
    if held := facts["held_out"]:
        lines.append(
            f"on {held['documents']:,} held-out documents: {held['tokens_per_word']:.2f} tokens a word,"
            f" {held['characters_per_token']:.1f} characters a token, {held['unknown_share']:.3%} unknown"
        )
    return "\n".join([*lines, f"use it: tokenizer.path={facts['folder']}"])
