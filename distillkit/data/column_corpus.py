"""Corpora of files with columns: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distillkit.data.corpus import FileCorpus, Paths, plain_names, require_text_column
from distillkit.errors import DataError

_LONGEST_FIELD = 2**31 - 1
"""Characters; the csv module's own limit is 131,072."""

_MISSING = object()


class _ColumnCorpus(FileCorpus):
    """Files with columns, one of which holds the text."""

    def __init__(
        self, path: Paths, text_column: str = "text", valid_path: Paths | None = None, valid_fraction: float = 0.05
    ) -> None:
        super().__init__(path, valid_path=valid_path, valid_fraction=valid_fraction)
        self.text_column = text_column

    def _options(self) -> dict[str, Any]:
        return {"text_column": self.text_column}


class _RowCorpus(_ColumnCorpus):
    """Text files read row by row: the datasets library's own readers guess the types of columns nobody asked for, fail
    where two pieces of a file differ, and do not name the line."""

    def _read(self, files: list[Path], folder: Path) -> datasets.Dataset:
        features = datasets.Features({"text": datasets.Value("large_string")})
        return datasets.Dataset.from_generator(
            self._texts, features=features, cache_dir=str(folder), gen_kwargs={"files": files}
        )

    @abstractmethod
    def _texts(self, files: list[Path]) -> Iterator[dict[str, str | None]]:
        """One {"text": document} a row; DataError naming file and line."""


class JsonlCorpus(_RowCorpus):
    """One JSON object a line (.jsonl, .ndjson); only the text column is looked at, others may vary freely.

    Args:
        path, valid_path, valid_fraction: see FileCorpus.
        text_column: the key whose value is the document; null counts as blank.
    """

    suffixes = (".jsonl", ".ndjson")

    def _texts(self, files: list[Path]) -> Iterator[dict[str, str | None]]:
        for file in files:
            with file.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield {"text": self._parse(line, f"{file}, line {number}")}

    def _parse(self, line: str, where: str) -> str | None:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _bad_row(f"not JSON ({error})", where) from None
        if not isinstance(record, dict):
            raise _bad_row("not a JSON object", where)
        text = record.get(self.text_column, _MISSING)
        if not isinstance(text, str | None):
            types = {key: "string" if isinstance(value, str) else type(value).__name__ for key, value in record.items()}
            require_text_column(self.text_column, types, where)
        # a lone surrogate is valid JSON but no Unicode text
        return None if text is None else text.encode("utf-8", "replace").decode()


class CsvCorpus(_RowCorpus):
    """Comma-separated files with a header line (.csv).

    Args:
        path, valid_path, valid_fraction: see FileCorpus.
        text_column: the column that holds the documents.
        delimiter: what stands between the columns, e.g. "\\t".
    """

    suffixes = (".csv",)

    def __init__(
        self,
        path: Paths,
        text_column: str = "text",
        delimiter: str = ",",
        valid_path: Paths | None = None,
        valid_fraction: float = 0.05,
    ) -> None:
        super().__init__(path, text_column, valid_path, valid_fraction)
        self.delimiter = delimiter

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "delimiter": self.delimiter}

    def _texts(self, files: list[Path]) -> Iterator[dict[str, str | None]]:
        csv.field_size_limit(_LONGEST_FIELD)
        for file in files:
            with file.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.reader(stream, delimiter=self.delimiter, strict=True)
                header = next(reader, [])
                require_text_column(self.text_column, dict.fromkeys(header, "string"), file)
                place = header.index(self.text_column)
                try:
                    for row in filter(None, reader):
                        if len(row) != len(header):
                            raise csv.Error(f"{len(row)} fields, but {len(header)} in the header")
                        yield {"text": row[place]}
                except csv.Error as error:
                    raise _bad_row(str(error), f"{file}, line {reader.line_num}") from None


class ParquetCorpus(_ColumnCorpus):
    """Parquet files (.parquet).

    Args:
        path, valid_path, valid_fraction: see FileCorpus.
        text_column: the string column that holds the documents; null counts as blank.
    """

    suffixes = (".parquet",)

    def _check(self, file: Path, key: str) -> None:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"not a Parquet file ({error})", key=key, value=file, fix="leave the file out") from None
        require_text_column(self.text_column, {field.name: str(field.type) for field in schema}, file)

    def _read(self, files: list[Path], folder: Path) -> datasets.Dataset:
        names = plain_names(files, folder)
        return datasets.Dataset.from_parquet(names, cache_dir=str(folder), columns=[self.text_column])


def _bad_row(problem: str, where: str) -> DataError:
    return DataError(problem, key="data.path", value=where, fix="repair the line or leave the file out")
