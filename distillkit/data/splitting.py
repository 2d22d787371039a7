"""Documents out of raw rows, and the held-out ones among them, before anything is tokenized."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from numpy.typing import NDArray

from distillkit.errors import ConfigError, DataError

DOCUMENTS_PER_BATCH = 256
"""Documents held in memory at a time."""

_FEATURES = datasets.Features({"text": datasets.Value("large_string"), "place": datasets.Value("float64")})


class Splits(NamedTuple):
    """Documents to train on and to hold out.

    Attributes:
        train: a column "text", one document a row, none blank.
        valid: the same; None when nothing can be held out.
        blank: how many blank documents were dropped.
    """

    train: datasets.Dataset
    valid: datasets.Dataset | None
    blank: int


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the datasets library's bars and log lines: what matters of them is in our errors."""
    bars, logger = datasets.are_progress_bars_disabled(), logging.getLogger("datasets")
    level = logger.level
    datasets.disable_progress_bars()
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def read_documents(
    raw: datasets.Dataset,
    column: str,
    cache_file: Path,
    *,
    key: str,
    value: object,
) -> tuple[datasets.Dataset, int]:
    """Strip the texts of a column and drop the blank ones.

    Args:
        raw: any columns.
        column: where the text is.
        cache_file: Arrow file to write the documents to.
        key, value: the configuration key, and its value, to name in an error.

    Returns:
        Columns "text" and "place" (the document's place in [0, 1), from its SHA-256), and how many were blank.

    Raises:
        DataError: no document is left.
    """
    with quiet():
        documents = raw.select_columns([column]).map(
            partial(_strip, column=column),
            batched=True,
            batch_size=DOCUMENTS_PER_BATCH,
            writer_batch_size=DOCUMENTS_PER_BATCH,
            remove_columns=[column],
            features=_FEATURES,
            cache_file_name=str(cache_file),
            load_from_cache_file=False,
            new_fingerprint=cache_file.stem,
        )
    if len(documents) == 0:
        raise DataError("nothing but blank documents", key=key, value=value, fix="give a corpus with text in it")
    return documents, len(raw) - len(documents)


def _strip(batch: dict[str, list[Any]], *, column: str) -> dict[str, list[Any]]:
    # a byte-order mark can stand anywhere once files were joined
    texts = [text for value in batch[column] if (text := (value or "").replace("\ufeff", "").strip())]
    return {"text": texts, "place": [place(text) for text in texts]}


def place(text: str) -> float:
    """A text's place in [0, 1), from its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def check_fraction(fraction: float, *, key: str = "data.valid_fraction", example: float = 0.05) -> None:
    """Raise ConfigError naming `key`, with a good value as example, unless 0 < fraction < 1."""
    if not 0 < fraction < 1:
        raise ConfigError(
            "not a share of the whole", key=key, value=fraction, allowed="(0, 1)", fix=f"set {key}={example}"
        )


def split_documents(documents: datasets.Dataset, valid_fraction: float, *, blank: int) -> Splits:
    """Hold out the documents whose place is below valid_fraction: at least one, never all.

    The place depends on the text alone, so a document stays on its side when the corpus grows or moves, and equal
    documents share a side. With a single (distinct) document nothing is held out.
    """
    held = held_out(np.asarray(documents.with_format("numpy")["place"][:]), valid_fraction)
    documents = documents.select_columns(["text"])
    if not held.any():
        return Splits(documents, None, blank)
    return Splits(documents.select(np.flatnonzero(~held)), documents.select(np.flatnonzero(held)), blank)


def held_out(places: NDArray[np.float64], fraction: float) -> NDArray[np.bool_]:
    """Which to hold out: those whose place is below the fraction, at least one and never all; none of a single place.

    Args:
        places: [N], of `place`.
        fraction: in (0, 1).
    """
    held = places <= max(np.nextafter(fraction, 0), places.min())
    return places < places.max() if held.all() else held
