"""Corpora of files with columns: JSON lines, CSV and Parquet."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from distillkit.data.corpus import FileCorpus, Paths, plain_names, require_text_column
from distillkit.data.rows import json_rows, table_rows
from distillkit.errors import DataError

_MISSING = object()
_ROWS_AT_A_TIME = 8192


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
            for line, record in json_rows(file, key="data.path"):
                yield {"text": self._text(record, f"{file}, line {line}")}

    def _text(self, record: dict[str, Any], where: str) -> str | None:
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
        for file in files:
            rows = table_rows(file, delimiter=self.delimiter, key="data.path")
            header = next(rows, [])
            require_text_column(self.text_column, dict.fromkeys(header, "string"), file)
            place = header.index(self.text_column)
            for row in rows:
                yield {"text": row[place]}


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
        # by default as many rows at a time as the first file has, of which none is refused
        return datasets.Dataset.from_parquet(
            names, cache_dir=str(folder), columns=[self.text_column], batch_size=_ROWS_AT_A_TIME
        )
