"""What the kinds with an output for each token share: features made batch by batch, padding on the right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import datasets
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

_BATCH = 1000

Columns = dict[str, list[Any]]


def make_features(rows: datasets.Dataset, encode: Callable[[Columns, int], Columns]) -> datasets.Dataset:
    """Features of rows, in memory, as 32-bit integers.

    Args:
        rows: one or more.
        encode: columns of a batch of rows and the place of its first -> columns of features: numbers or lists of them.
    """
    batches = (encode(rows[start : start + _BATCH], start) for start in range(0, len(rows), _BATCH))
    return datasets.Dataset(pa.concat_tables([pa.table(_integers(batch)) for batch in batches]))


def _integers(columns: Columns) -> dict[str, pa.Array]:
    lists = {name for name, values in columns.items() if isinstance(values[0], list)}
    kinds = {name: pa.list_(pa.int32()) if name in lists else pa.int32() for name in columns}
    return {name: pa.array(values, type=kinds[name]) for name, values in columns.items()}


def pad_right(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, padding on the right: a label's place then stays what it is in the feature without padding."""
    padder = copy.copy(tokenizer)
    padder.padding_side = "right"
    return padder
