"""Where text comes from: the contract of a corpus, what corpora of files share, and plain text files."""

from __future__ import annotations

import glob
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import datasets

from distillkit.data.checks import check_not_empty, check_text, digest, find_files
from distillkit.data.splitting import Splits, check_fraction, quiet, read_documents, split_documents
from distillkit.errors import ConfigError, DataError

Paths = str | Path | Sequence[str | Path]


class Corpus(Protocol):
    """What the data module asks of a corpus; a user's own class may be one."""

    def fingerprint(self) -> dict[str, Any]:
        """Plain JSON values that change exactly when the documents do, wherever they lie."""

    def splits(self, cache_dir: Path) -> Splits:
        """The documents; files may be written under cache_dir and are deleted after use."""


class FileCorpus(ABC):
    """Documents out of files; the formats below say how.

    Args:
        path: a file, a folder, a glob, a list of these, or one string with commas between them.
        valid_path: the same for the held-out documents; None holds out a part of `path`.
        valid_fraction: which part, in (0, 1), chosen by a hash of each document.

    Raises:
        ConfigError: valid_fraction is out of range.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """Which files of a folder belong to it; the first names the format."""

    def __init__(self, path: Paths, *, valid_path: Paths | None, valid_fraction: float) -> None:
        check_fraction(valid_fraction)
        self.path, self.valid_path, self.valid_fraction = path, valid_path, valid_fraction

    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of every file, in order, and the options; DataError when a file is missing."""
        held_out: Any = self.valid_fraction
        if self.valid_path is not None:
            held_out = [digest(file, key="data.valid_path") for file in self._files(self.valid_path, "data.valid_path")]
        files = [digest(file) for file in self._files(self.path, "data.path")]
        return {"format": self.suffixes[0], "files": files, "valid": held_out, **self._options()}

    def splits(self, cache_dir: Path) -> Splits:
        """Check and read the files.

        Raises:
            DataError: a file is missing, empty, blank, binary, not of its format, or lacks the column.
        """
        documents, blank = self._documents(self.path, "data.path", cache_dir / "train")
        if self.valid_path is None:
            return split_documents(documents, self.valid_fraction, blank=blank)
        valid, blank_valid = self._documents(self.valid_path, "data.valid_path", cache_dir / "valid")
        return Splits(documents.select_columns(["text"]), valid.select_columns(["text"]), blank + blank_valid)

    def _files(self, path: Paths, key: str) -> list[Path]:
        return find_files(path, suffixes=self.suffixes, key=key)

    def _documents(self, path: Paths, key: str, folder: Path) -> tuple[datasets.Dataset, int]:
        """The documents of some files, and how many blank ones were dropped."""
        files = self._files(path, key)
        check_not_empty(files, key=key)
        for file in files:
            self._check(file, key)
        try:
            with quiet():
                raw = self._read(files, folder)
                return read_documents(raw, raw.column_names[0], folder / "documents.arrow", key=key, value=path)
        except (datasets.exceptions.DatasetsError, ValueError) as error:
            if "corresponds to no data" in str(error):
                raise DataError("no documents", key=key, value=path, fix="give a corpus with text in it") from None
            if isinstance(error.__cause__, OSError | DataError):  # a full disk; a bad line, found and named by us
                raise error.__cause__ from None
            problem = f"cannot be read as {self.suffixes[0]}: {error.__cause__ or error}"
            raise DataError(problem, key=key, value=path, fix="repair the file or leave it out") from error

    def _check(self, file: Path, key: str) -> None:
        """Raise DataError unless the file can be read as this format."""
        check_text(file, key=key)

    @abstractmethod
    def _options(self) -> dict[str, Any]:
        """What else decides which documents come out."""

    @abstractmethod
    def _read(self, files: list[Path], folder: Path) -> datasets.Dataset:
        """A data set whose first column holds the documents; what it needs on disk goes into the folder."""


class TextCorpus(FileCorpus):
    """Plain UTF-8 text files (.txt). A byte-order mark and CRLF line ends are understood.

    Args:
        path, valid_path, valid_fraction: see FileCorpus.
        sample_by: what a document is: "line", "paragraph" (blank lines between) or "document" (a file).
    """

    suffixes = (".txt",)

    def __init__(
        self, path: Paths, sample_by: str = "line", valid_path: Paths | None = None, valid_fraction: float = 0.05
    ) -> None:
        super().__init__(path, valid_path=valid_path, valid_fraction=valid_fraction)
        if sample_by not in ("line", "paragraph", "document"):
            raise ConfigError(
                "unknown unit",
                key="data.sample_by",
                value=sample_by,
                allowed="line, paragraph, document",
                fix="set data.sample_by=line",
            )
        self.sample_by = sample_by

    def _options(self) -> dict[str, Any]:
        return {"sample_by": self.sample_by}

    def _read(self, files: list[Path], folder: Path) -> datasets.Dataset:
        return datasets.Dataset.from_text(
            plain_names(files, folder), cache_dir=str(folder), sample_by=self.sample_by, encoding="utf-8-sig"
        )


def require_text_column(column: str, columns: Mapping[str, str], where: str | Path) -> None:
    """Raise DataError unless a column is there and holds text.

    Args:
        column: its name.
        columns: all names, with their Arrow types.
        where: the file or data set, for the error.
    """
    if column not in columns:
        problem, allowed = f"no such column in {where}", ", ".join(map(str, columns)) or "none there"
    elif columns[column] not in ("string", "large_string"):
        problem, allowed = f"holds {columns[column]} in {where}", "a column of strings"
    else:
        return
    raise DataError(
        problem, key="data.text_column", value=column, allowed=allowed, fix="name the column that holds the text"
    )


def plain_names(files: list[Path], folder: Path) -> list[Any]:
    """Names the datasets library takes as they are (it expands patterns and parses "::"): links in a new folder."""
    source = folder / "source"
    source.mkdir(parents=True)
    links = [source / f"{number:06d}{file.suffix}" for number, file in enumerate(files)]
    for link, file in zip(links, files, strict=True):
        link.symlink_to(file.resolve())
    return [glob.escape(str(link)) for link in links]
