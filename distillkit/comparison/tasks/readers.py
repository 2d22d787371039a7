"""The formats of local files: each reader gives all columns of one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distillkit.data.rows import bad_row, json_rows, table_rows
from distillkit.errors import DataError

Reader = Callable[[Path], datasets.Dataset]
"""Reads one file; DataError naming file and line."""

KEY = "task.*.files"


def standard_readers(*, header: bool) -> dict[str, Reader]:
    """Suffix -> reader of the formats that every kind of task reads.

    Args:
        header: whether the first line of a CSV or TSV file names the columns; without, they are named by their
            place, "0", "1", ...
    """
    return {
        ".csv": partial(_read_table, delimiter=",", quoted=True, header=header),
        # the TSV files of GLUE hold lone quotes
        ".tsv": partial(_read_table, delimiter="\t", quoted=False, header=header),
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".json": read_json,
        ".parquet": _read_parquet,
    }


def _read_table(file: Path, *, delimiter: str, quoted: bool, header: bool) -> datasets.Dataset:
    """CSV or TSV; every value a string."""
    rows = list(table_rows(file, key=KEY, delimiter=delimiter, quoted=quoted))
    width = len(rows[0]) if rows else 0
    names = rows.pop(0) if header and rows else [str(place) for place in range(width)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise bad_row(f"two columns are named {twice!r}", file, 1, key=KEY)
    return _dataset(file, {name: [row[place] for row in rows] for place, name in enumerate(names)})


def _read_json_lines(file: Path) -> datasets.Dataset:
    return from_objects(file, [row for _, row in json_rows(file, key=KEY)])


def read_json(file: Path) -> datasets.Dataset:
    """One list of objects, or one object a line."""
    text = file.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith("["):
        return _read_json_lines(file)
    rows = parse_json(file, text)
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError("not a JSON object", key=KEY, value=f"{file}, entry {number}", fix="repair the entry")
    return from_objects(file, rows)


def parse_json(file: Path, text: str) -> Any:
    """A file's text as JSON; DataError naming file and line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise bad_row(f"not JSON ({error.msg})", file, error.lineno, key=KEY) from None


def from_objects(file: Path, rows: list[dict[str, Any]]) -> datasets.Dataset:
    """Rows with all columns that any of them has; what a row lacks is None."""
    names = dict.fromkeys(name for row in rows for name in row)
    return _dataset(file, {name: [row.get(name) for row in rows] for name in names})


def _dataset(file: Path, columns: Mapping[str, list[Any]]) -> datasets.Dataset:
    try:
        # with a fingerprint of its own, because finding one takes longer than reading a small file
        return datasets.Dataset(pa.table(dict(columns)), fingerprint="file")
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError) as error:
        problem = f"a column's values are of several kinds, or no text ({' '.join(str(error).split())})"
        raise DataError(problem, key=KEY, value=file, fix="give each column values of one kind") from None


def _read_parquet(file: Path) -> datasets.Dataset:
    try:
        return datasets.Dataset(pq.read_table(file))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not a Parquet file ({error})", key=KEY, value=file, fix="write it anew") from None
