"""Rows of text files with columns, one at a time; a row that does not fit is named by file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillkit.errors import DataError

_LONGEST_FIELD = 2**31 - 1
"""Characters; the csv module's own limit is 131,072."""


def json_rows(file: Path, *, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """One JSON object a line; blank lines are passed over.

    Args:
        file: UTF-8 text, with or without a byte-order mark.
        key: the configuration key to name in an error.

    Returns:
        Pairs of line, from 1, and object.

    Raises:
        DataError: a line is no JSON object.
    """
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except ValueError as error:
                raise bad_row(f"not JSON ({error})", file, line, key=key) from None
            if not isinstance(row, dict):
                raise bad_row("not a JSON object", file, line, key=key)
            yield line, row


def table_rows(file: Path, *, key: str, delimiter: str = ",", quoted: bool = True) -> Iterator[list[str]]:
    """Rows of delimited fields, the header among them; blank lines are passed over.

    Args:
        file: UTF-8 text, with or without a byte-order mark; lines end in LF or CRLF.
        key: the configuration key to name in an error.
        delimiter: what stands between the fields.
        quoted: whether a field in double quotes may hold delimiters and line ends; without, quotes are plain text.

    Returns:
        Rows of as many fields as the first.

    Raises:
        DataError: a row has another number of fields, or its quotes do not close.
    """
    width = 0
    for line, row in _quoted(file, delimiter, key) if quoted else _plain(file, delimiter):
        width = width or len(row)
        if len(row) != width:
            raise bad_row(f"{len(row)} fields, but {width} in the first line", file, line, key=key)
        yield row


def _quoted(file: Path, delimiter: str, key: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            for row in filter(None, reader):
                yield reader.line_num, row
        except csv.Error as error:
            raise bad_row(str(error), file, reader.line_num, key=key) from None


def _plain(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # not csv.QUOTE_NONE, which takes a lone carriage return inside a text for a line end
    with file.open(encoding="utf-8-sig", newline="\n") as stream:
        for line, text in enumerate(stream, 1):
            if stripped := text.rstrip("\r\n"):
                yield line, stripped.split(delimiter)


def bad_row(problem: str, file: Path, line: int, *, key: str) -> DataError:
    """The error of a row that does not fit."""
    return DataError(problem, key=key, value=f"{file}, line {line}", fix="repair the line or leave the file out")
