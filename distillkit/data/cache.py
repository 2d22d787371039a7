"""Prepared corpora on disk: built once, under a name that follows from their contents, then memory-mapped."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from transformers import PreTrainedTokenizerFast

from distillkit.data.corpus import Corpus
from distillkit.data.packing import Packer, Ragged, write_rows
from distillkit.data.sentence_order import PairPacker
from distillkit.data.sentences import segmenter_identity
from distillkit.data.splitting import DOCUMENTS_PER_BATCH, Splits
from distillkit.data.tokenization import frame_of, tokenize, tokenizer_identity
from distillkit.errors import DataError, StorageError

_FORMAT = 1
"""Raised when rows change for the same corpus, so that no older cache is taken."""

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class PreparedData(NamedTuple):
    """A corpus as rows of tokens.

    Attributes:
        train: columns input_ids (int32 list), length (int32), maskable (int32), and with packing=sentences second
            (int32: place of the first token of the second segment); memory-mapped.
        valid: the held-out rows, the same; None when there are none.
        stats: "blank_documents", and per split, or None, the packer's counts (documents, tokens, rows, ...).
        key: name of the cache entry; equal keys hold equal rows.
        folder: of the cache entry.
    """

    train: datasets.Dataset
    valid: datasets.Dataset | None
    stats: dict[str, Any]
    key: str
    folder: Path


class _Recipe(NamedTuple):
    """How rows are made: the arguments of `prepare`; language is None where no sentences are looked for."""

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    packing: str
    num_proc: int | None
    language: str | None = None

    def packer(self) -> Packer | PairPacker:
        """A new one, of one split."""
        frame = frame_of(self.tokenizer)
        if self.language is not None:
            return PairPacker(frame, self.max_length)
        return Packer(self.packing, frame, self.max_length)


def column(split: datasets.Dataset, name: str) -> np.ndarray:
    """A column of numbers as [N] array, without making Python objects."""
    return split.data.column(name).to_numpy()


def prepare(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_length: int,
    packing: str,
    language: str = "en",
    num_proc: int | None = None,
    cache_dir: str | Path | None = None,
) -> PreparedData:
    """Tokenize and pack a corpus, or map what an earlier call left in the cache.

    An entry is built beside its final place and renamed when complete; who finds another process building it waits.
    Without held-out rows (a single document, or too little text for a block) a warning says so.

    Args:
        corpus: its fingerprint is part of the key; its documents are read only when the entry is missing.
        tokenizer: a fast one.
        max_length: tokens of a row, specials included.
        packing: "full", "none" or "sentences".
        language: of the text; sentences are found by its rules.
        num_proc: processes that tokenize; None takes one per core. The rows do not depend on it.
        cache_dir: default $DISTILLKIT_CACHE, else ~/.cache/distillkit.

    Raises:
        DataError: the corpus is unusable, or too small for one row.
        StorageError: the cache cannot be written.
    """
    root = _root(cache_dir)
    identity = [_FORMAT, corpus.fingerprint(), tokenizer_identity(tokenizer), max_length, packing]
    recipe = _Recipe(tokenizer, max_length, packing, num_proc)
    if packing == "sentences":
        identity.append(segmenter_identity(language))
        recipe = recipe._replace(language=language)
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    if not (root / key).exists():
        _fill(root, key, lambda folder: _build(folder, corpus, recipe))
    return _load(root / key)


@contextmanager
def open_documents(corpus: Corpus, cache_dir: str | Path | None = None) -> Iterator[Splits]:
    """A corpus' documents, which lie in the cache while the block runs; who is killed leaves them to the next builder.

    Args:
        corpus: read anew.
        cache_dir: default $DISTILLKIT_CACHE, else ~/.cache/distillkit.

    Raises:
        DataError: the corpus is unusable.
        StorageError: the cache cannot be written.
    """
    root, key = _root(cache_dir), f"documents-{secrets.token_hex(8)}"
    folder, lock = root / f"{key}.building", root / f"{key}.lock"
    with ExitStack() as stack:
        stack.callback(lock.unlink, missing_ok=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock))
            _remove_leftovers(root, key)
            folder.mkdir()
            splits = corpus.splits(folder)
        yield splits


def _root(cache_dir: str | Path | None) -> Path:
    return Path(cache_dir or os.environ.get("DISTILLKIT_CACHE") or "~/.cache/distillkit").expanduser()


def _fill(root: Path, key: str, build: Callable[[Path], None]) -> None:
    """Build an entry beside its place and move it there, unless another process has done so by the time it is ours."""
    folder = root / f"{key}.building"
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / f"{key}.lock"):
            _remove_leftovers(root, key)
            if (root / key).exists():
                return
            try:
                build(folder)
                folder.rename(root / key)
            finally:  # nothing is left to remove after the rename
                shutil.rmtree(folder, ignore_errors=True)


def _load(folder: Path) -> PreparedData:
    stats = json.loads((folder / "stats.json").read_text())
    if stats["valid"] is None:
        warnings.warn(
            "no text is held out (a single document, or too short for one row), so validation is skipped; "
            "data.valid_path can name some",
            stacklevel=3,
        )
    train, valid = (
        datasets.Dataset.from_file(str(folder / f"{name}.arrow")) if stats[name] else None
        for name in ("train", "valid")
    )
    return PreparedData(train, valid, stats, folder.name, folder)


def _build(folder: Path, corpus: Corpus, recipe: _Recipe) -> None:
    """Fill a new folder with train.arrow, valid.arrow and stats.json."""
    work = folder / "work"
    work.mkdir(parents=True)
    splits = corpus.splits(work)
    stats: dict[str, Any] = {"blank_documents": splits.blank, "train": None, "valid": None}
    for name, documents in (("train", splits.train), ("valid", splits.valid)):
        if documents is None:
            continue
        packer = recipe.packer()
        tokens = tokenize(
            documents, recipe.tokenizer, work / f"{name}_ids.arrow", num_proc=recipe.num_proc, language=recipe.language
        )
        rows = packer.pack(_token_batches(tokens))
        write_rows(rows, folder / f"{name}.arrow", special_ids=recipe.tokenizer.all_special_ids)
        stats[name] = packer.counts if packer.counts["rows"] else None
        if name == "train" and stats[name] is None:
            raise _no_rows(recipe, packer.counts)
    shutil.rmtree(work)
    with (folder / "stats.json").open("w") as stream:
        json.dump(stats, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _no_rows(recipe: _Recipe, counts: dict[str, int]) -> DataError:
    """The error of a text that fills no row."""
    if recipe.language is not None:
        return DataError(
            f"no document has two sentences side by side that fit into {recipe.max_length} tokens"
            f" ({counts['documents']} documents, {counts['single_sentence_documents']} of one sentence)",
            key="data.packing",
            value=recipe.packing,
            fix="let a document be more than a line (data.sample_by=document), or raise data.max_length",
        )
    return DataError(
        f"the {counts['tokens']} tokens of {counts['documents']} documents fill no row",
        key="data.max_length",
        value=recipe.max_length,
        fix="set a smaller data.max_length, set data.packing=none, or give more text",
    )


def _token_batches(tokens: datasets.Dataset) -> Iterator[Ragged]:
    for table in tokens.with_format("arrow").iter(DOCUMENTS_PER_BATCH):
        ids = table.column("ids").combine_chunks()
        parts = None
        if "sentences" in table.column_names:
            parts = table.column("sentences").combine_chunks().flatten().to_numpy()
        yield Ragged(ids.flatten().to_numpy(), ids.value_lengths().to_numpy(), parts)


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise StorageError(
            f"cannot be written: {error.strerror}",
            key="DISTILLKIT_CACHE",
            value=root,
            fix="free some space, or set DISTILLKIT_CACHE to a writable folder with enough",
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that dies with this process (and, unlike flock, is not inherited by its children).

    Yields True; or False at once, without `wait`, when another process holds it.
    """
    with path.open("w") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _remove_leftovers(root: Path, key: str) -> None:
    """Delete the folders of builders that died: ours, whose lock we hold, and those whose lock nobody holds."""
    shutil.rmtree(root / f"{key}.building", ignore_errors=True)
    for folder in root.glob("*.building"):
        with locked(root / f"{folder.stem}.lock", wait=False) as dead:
            if dead:
                shutil.rmtree(folder, ignore_errors=True)
