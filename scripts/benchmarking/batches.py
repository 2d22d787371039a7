"""Batches of real text: packed, of random lengths, grouped by length; and of random ids where text is of no matter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.dataset import MaskedRows
from distillkit.data.demo_corpus import DemoCorpus, demo_fingerprint, demo_reviews
from distillkit.data.plan import MicroBatch
from distillkit.data.splitting import Splits, read_documents, split_documents
from distillkit.layout import with_layout
from distillkit.types import IGNORE_INDEX, Batch, StepTotals
from scripts.benchmarking.shapes import Shape

KINDS = ("packed", "random", "grouped")
SEED = 0
_REVIEWS, _SENTENCES, _HELD_OUT = 2000, 7, 0.01


class Passages:
    """A corpus whose texts differ in length: passages of one to seven sentences of the demo's reviews.

    The reviews themselves are mostly longer than a row, so that batches of them have next to no padding.
    """

    def fingerprint(self) -> dict[str, Any]:
        """The demo corpus's, and how it is cut."""
        return demo_fingerprint() | {"format": "passages", "cut": [_REVIEWS, _SENTENCES, _HELD_OUT]}

    def splits(self, cache_dir: Path) -> Splits:
        """Cut the first reviews; a few passages are held out, or the data module would warn."""
        texts = cut(demo_reviews()[0]["text"][:_REVIEWS])
        documents, blank = read_documents(
            datasets.Dataset.from_dict({"text": texts}), "text", cache_dir / "train.arrow", key="data", value="demo"
        )
        return split_documents(documents, _HELD_OUT, blank=blank)


def cut(reviews: Sequence[str]) -> list[str]:
    """Passages of one to seven sentences each, drawn evenly, in the order of the text."""
    rng = np.random.default_rng(SEED)
    passages = []
    for review in reviews:
        sentences = re.split(r"(?<=[.!?])\s+", review)
        while sentences:
            taken = int(rng.integers(1, _SENTENCES + 1))
            passages.append(" ".join(sentences[:taken]))
            sentences = sentences[taken:]
    return passages


def real_batches(kind: str, shape: Shape, tokenizer: PreTrainedTokenizerFast, count: int) -> list[Batch]:
    """Masked batches of real text, each an optimizer step of its own.

    Args:
        kind: of KINDS. "packed": full blocks. "random": texts as they come, padded to the longest. "grouped": texts of
            like length together, as the batch plan of packing=none makes them.
        shape: rows and length.
        tokenizer: the demo's.
        count: of batches.
    """
    full = kind == "packed"
    data = MaskedLMDataModule(
        DemoCorpus() if full else Passages(), tokenizer, max_length=shape.length, batch_size=shape.rows,
        packing="full" if full else "none", seed=SEED,
    )  # fmt: skip
    if kind != "random":
        return list(data.train_stream(end_step=count))
    train = data.prepare().train
    pad = tokenizer.pad_token_id
    rows = MaskedRows(train, data.masker, seed=SEED, max_length=shape.length, pad_token_id=int(pad))  # type: ignore[call-overload]
    order = np.random.default_rng(SEED).permutation(len(train))[: count * shape.rows].reshape(count, shape.rows)
    return [_counted(rows[MicroBatch(0, step, 0, chosen, StepTotals(0, 0))]) for step, chosen in enumerate(order)]


def random_batch(rows: int, length: int, vocabulary: int) -> Batch:
    """A batch [rows, length] without padding, of random ids; 15% of the positions are predicted."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(5, vocabulary, (rows, length), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.15, ids, IGNORE_INDEX)
    return _counted(Batch(ids, None, labels, 0, 0, StepTotals(0, 0)))


def lengths(batch: Batch) -> list[int]:
    """Tokens of each row, without padding."""
    rows, width = batch.input_ids.shape
    return [width] * rows if batch.attention_mask is None else batch.attention_mask.sum(1).tolist()


def fill(batches: Sequence[Batch]) -> float:
    """Share of the positions that are no padding."""
    return sum(b.totals.attended for b in batches) / sum(b.input_ids.numel() for b in batches)


def _counted(batch: Batch) -> Batch:
    """The batch as an optimizer step of its own."""
    return with_layout(batch)._replace(
        totals=StepTotals(sum(lengths(batch)), int((batch.labels != IGNORE_INDEX).sum()), len(batch.labels))
    )
