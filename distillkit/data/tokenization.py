"""Text to token ids with a fast tokenizer, in parallel and whatever its saved truncation says."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from distillkit.data.sentences import sentence_lengths
from distillkit.data.splitting import DOCUMENTS_PER_BATCH, quiet
from distillkit.errors import DataError

_PIECE = 100_000
"""Characters tokenized at a time: a tokenizer takes some 150 bytes for each."""

_WORD_END = re.compile(r"(?<=\S)\s")

_DOCUMENTS_PER_PROCESS = 1000


class Frame(NamedTuple):
    """The ids around a row: [CLS] row [SEP]; [SEP] also separates documents."""

    start: int
    end: int


def frame_of(tokenizer: PreTrainedTokenizerFast) -> Frame:
    """The tokenizer's cls and sep ids, or its bos and eos where it has none; DataError without either."""
    start = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    if start is None or end is None:
        raise DataError(
            "the tokenizer has neither cls and sep tokens nor bos and eos tokens",
            key="tokenizer.path",
            value=tokenizer.name_or_path,
            allowed="the tokenizer of a masked language model",
            fix="take the teacher's tokenizer",
        )
    return Frame(start, end)


def tokenizer_identity(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256, hex, of all that decides rows: the pipeline, which holds the token -> id map, and the special ids."""
    special = [*frame_of(tokenizer), *sorted(tokenizer.all_special_ids)]
    parts = [json.loads(_pipeline(tokenizer)), special]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenize(
    documents: datasets.Dataset,
    tokenizer: PreTrainedTokenizerFast,
    cache_file: Path,
    *,
    num_proc: int | None = None,
    language: str | None = None,
) -> datasets.Dataset:
    """Token ids of every document, in order, without special tokens or truncation.

    Args:
        documents: a column "text".
        tokenizer: a fast one.
        cache_file: Arrow file to write to (with several processes, names like it).
        num_proc: processes; None takes one per core, but no more than one per 1000 documents. The ids do not
            depend on it.
        language: of the text, to find its sentences; None: they are not looked for. The ids do not depend on it.

    Returns:
        A column "ids" of int32 lists, memory-mapped; with a language also "sentences" of int32 lists, tokens of each.
    """
    if num_proc is None:
        num_proc = min(os.cpu_count() or 1, max(1, len(documents) // _DOCUMENTS_PER_PROCESS))
    processes = min(num_proc, len(documents))
    columns = ["ids"] if language is None else ["ids", "sentences"]
    with quiet():
        tokens = documents.with_format("arrow").map(
            partial(_tokenize_batch, pipeline=_pipeline(tokenizer), language=language),
            batched=True,
            batch_size=DOCUMENTS_PER_BATCH,
            writer_batch_size=DOCUMENTS_PER_BATCH,
            remove_columns=documents.column_names,
            features=datasets.Features({name: datasets.List(datasets.Value("int32")) for name in columns}),
            num_proc=processes if processes > 1 else None,
            cache_file_name=str(cache_file),
            load_from_cache_file=False,
            new_fingerprint=cache_file.stem,
        )
    return tokens.with_format(None)


def _pipeline(tokenizer: PreTrainedTokenizerFast) -> str:
    """The backend as JSON, without the truncation and padding that a saved tokenizer or a caller may have set."""
    return json.dumps({**json.loads(tokenizer.backend_tokenizer.to_str()), "truncation": None, "padding": None})


@lru_cache(maxsize=1)
def _backend(pipeline: str) -> Tokenizer:
    return Tokenizer.from_str(pipeline)


def _tokenize_batch(batch: pa.Table, *, pipeline: str, language: str | None) -> pa.Table:
    pieces = [list(_pieces(text)) for text in batch.column("text").to_pylist()]
    owner = np.repeat(np.arange(len(pieces)), [len(own) for own in pieces])
    backend = _backend(pipeline)
    encode = backend.encode_batch_fast if language is None else backend.encode_batch  # the fast one has no offsets
    encodings = encode([piece for own in pieces for piece in own], add_special_tokens=False)
    ids = [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]
    lengths = np.bincount(owner, weights=[len(piece) for piece in ids], minlength=len(pieces)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)
    columns = {"ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))}
    if language is not None:
        rest = iter(encodings)
        sentences = [sentence_lengths(own, [next(rest) for _ in own], language) for own in pieces]
        columns["sentences"] = pa.array(sentences, pa.list_(pa.int32()))
    return pa.table(columns)


def _pieces(text: str) -> Iterator[str]:
    """Cut a long text before white space, where no tokenizer of words has a token across."""
    start = 0
    while len(text) - start > _PIECE:
        blank = _WORD_END.search(text, start + _PIECE)
        if blank is None:
            break
        yield text[start : blank.start()]
        start = blank.start()
    yield text[start:]
