"""Columns of raw rows, and features made of rows: what the kinds of tasks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets

from distillkit.data.splitting import quiet
from distillkit.errors import DataError

Column = str | int
"""A column's name, or its place from 0 (files of one task may name the same column differently)."""


def column(raw: datasets.Dataset, wanted: Column, part: str, *, key: str) -> str:
    """The name of a column.

    Args:
        raw: rows.
        wanted: its name or place.
        part: whose rows they are, for an error.
        key: the configuration key that names the column.

    Raises:
        DataError: there is none.
    """
    if (name := find_column(raw, wanted)) is not None:
        return name
    raise DataError(
        f"the {part} rows have no such column", key=key, value=wanted, allowed=", ".join(raw.column_names),
        fix="give its name, or its place from 0",
    )  # fmt: skip


def find_column(raw: datasets.Dataset, wanted: Column) -> str | None:
    """The name of a column by its name or place, or None where there is none."""
    name, names = str(wanted), raw.column_names
    if name in names:
        return name
    return str(names[int(name)]) if name.isdigit() and int(name) < len(names) else None


def texts(raw: datasets.Dataset, wanted: Column, part: str, *, key: str) -> list[str]:
    """The texts of a column; DataError naming the part and row that has none. See `column`."""
    values: list[Any] = raw[column(raw, wanted, part, key=key)][:]
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise bad_value(f"{value!r} is no text", part, number, key=key, value=wanted)
    return values


def bad_value(
    problem: str, part: str, row: int, *, key: str, value: Any, allowed: str | None = None, fix: str = "repair the row"
) -> DataError:
    """The error of a row, counted from 1, that does not fit."""
    return DataError(f"row {row} of the {part} rows: {problem}", key=key, value=value, allowed=allowed, fix=fix)


def make_features(rows: datasets.Dataset, encode: Callable[[dict[str, Any], int], dict[str, Any]]) -> datasets.Dataset:
    """Features of rows; `encode` takes a batch of rows and the place of its first, and gives columns of features."""
    with quiet():
        return rows.map(
            lambda batch, places: encode(batch, places[0]), batched=True, with_indices=True,
            remove_columns=rows.column_names, load_from_cache_file=False,
            new_fingerprint="features",  # a fingerprint of the tokenizer would take longer than its work
        )  # fmt: skip


def one_a_row(make: Callable[..., dict[str, Any]]) -> Callable[[dict[str, Any], int], dict[str, Any]]:
    """For `make_features`, what gives one feature a row: its columns, with the place of the row as "_row"."""

    def encode(batch: dict[str, Any], first: int) -> dict[str, Any]:
        columns = make(batch)
        return {**columns, "_row": list(range(first, first + len(columns["input_ids"])))}

    return encode
