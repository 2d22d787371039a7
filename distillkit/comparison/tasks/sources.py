"""Where the rows of a task come from: local files, a data set of the hub, or the demo's reviews."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import datasets

Reader = Callable[[Path], datasets.Dataset]
"""Reads one file; DataError naming file and line."""


class Source(Protocol):
    """Gives raw rows."""

    def read(self) -> dict[str, datasets.Dataset]:
        """Part ("train", "test", ...) -> rows; DataError when they cannot be had."""

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the rows, as plain values."""


class FileRows:
    """Rows of local files.

    Args:
        files: part -> file.
        readers: suffix -> reader, besides READERS.
    """

    def __init__(self, files: Mapping[str, str], readers: Mapping[str, Reader] | None = None) -> None:
        self.files, self.readers = dict(files), dict(readers or {})

    def read(self) -> dict[str, datasets.Dataset]:
        """Part -> rows."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of each file."""
        raise NotImplementedError
