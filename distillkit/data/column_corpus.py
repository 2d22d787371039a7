"""Corpora of files with columns: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distillkit.data.corpus import FileCorpus, Paths, require_text_column
from distillkit.data.splitting import Reader
from distillkit.errors import DataError


class _ColumnCorpus(FileCorpus):
    """Files with columns, one of which holds the text."""

    def __init__(
        self, path: Paths, text_column: str = "text", valid_path: Paths | None = None, valid_fraction: float = 0.05
    ) -> None:
        super().__init__(path, valid_path=valid_path, valid_fraction=valid_fraction)
        self.text_column = text_column

    def _options(self) -> dict[str, Any]:
        return {"text_column": self.text_column}


class JsonlCorpus(_ColumnCorpus):
    """One JSON object a line (.jsonl, .ndjson); only the text column is looked at, others may vary freely.

    Args:
        path, valid_path, valid_fraction: see FileCorpus.
        text_column: the key whose value is the document; null counts as blank.
    """

    suffixes = (".jsonl", ".ndjson")

    def _read(self, files: list[str], cache_dir: str) -> datasets.Dataset:
        return datasets.Dataset.from_text(files, cache_dir=cache_dir, encoding="utf-8-sig")

    def _reader(self, files: list[Path]) -> Reader:
        return lambda lines, rows: [self._parse(line, row, files) for line, row in zip(lines, rows, strict=True)]

    def _parse(self, line: str, row: int, files: list[Path]) -> str | None:
        if not line.strip():
            return None
        try:
            record = json.loads(line)
        except ValueError as error:
            raise _bad_line(f"not JSON ({error})", row, files) from None
        if not isinstance(record, dict):
            raise _bad_line("not a JSON object", row, files)
        text = record.get(self.text_column, 0)
        if not isinstance(text, str | None):
            types = {
                name: "string" if isinstance(value, str) else type(value).__name__ for name, value in record.items()
            }
            require_text_column(self.text_column, types, _where(row, files))
        # a lone surrogate is valid JSON but no Unicode text
        return None if text is None else text.encode("utf-8", "replace").decode()


class CsvCorpus(_ColumnCorpus):
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

    def _check(self, file: Path, key: str) -> None:
        super()._check(file, key)
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream, delimiter=self.delimiter), [])
        require_text_column(self.text_column, dict.fromkeys(header, "string"), file)

    def _read(self, files: list[str], cache_dir: str) -> datasets.Dataset:
        return datasets.Dataset.from_csv(
            files,
            cache_dir=cache_dir,
            features=datasets.Features({self.text_column: datasets.Value("string")}),
            usecols=[self.text_column],
            sep=self.delimiter,
            keep_default_na=False,  # a document that reads "NA" is a document
        )


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

    def _read(self, files: list[str], cache_dir: str) -> datasets.Dataset:
        return datasets.Dataset.from_parquet(files, cache_dir=cache_dir, columns=[self.text_column])


def _where(row: int, files: list[Path]) -> str:
    """File and line (from 1) of a row counted over all files; reads them again, so for errors only."""
    for file in files:
        with file.open(encoding="utf-8-sig") as stream:
            lines = sum(1 for _ in stream)
        if row < lines:
            return f"{file}, line {row + 1}"
        row -= lines
    return str(files[-1])


def _bad_line(problem: str, row: int, files: list[Path]) -> DataError:
    return DataError(
        problem,
        key="data.path",
        value=_where(row, files),
        allowed="one JSON object a line",
        fix="repair the line or leave the file out",
    )
