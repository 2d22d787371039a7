"""The data side of a run: a corpus and a tokenizer in, batches out, with Lightning or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedTokenizerFast

from distillkit.data.cache import PreparedData, column, prepare
from distillkit.data.corpus import Corpus
from distillkit.data.dataset import MaskedRows, PlanSampler
from distillkit.data.homes import Homes
from distillkit.data.masking import VALID_SEED, Masker, TokenMasker
from distillkit.data.plan import BatchPlan, MicroBatch, check_batching, lesser_bound, totals_of
from distillkit.data.sentences import check_language
from distillkit.data.token_counts import token_counts
from distillkit.errors import ConfigError
from distillkit.phases import phase
from distillkit.types import Batch


class MaskedLMDataModule(pl.LightningDataModule):
    """Prepares a corpus once, then streams masked batches that depend on (seed, step) alone.

    The training loader holds the WHOLE rest of training, from `start_step` to `end_step`, as one epoch of Lightning's;
    our epochs follow from the batch number. So a resumed run cannot replay an epoch, whatever Lightning's counters
    say. Ranks are cut here: with more than one, the Trainer needs use_distributed_sampler=False.

    Args:
        corpus: where the text comes from.
        tokenizer: the teacher's.
        max_length: longest row in tokens, specials included; at least 8.
        batch_size: rows of a micro-batch.
        batch_tokens: most positions of a micro-batch, padding included; exactly one of the two.
        packing: "full", "none" or "sentences".
        language: of the text, e.g. "en"; packing=sentences finds sentences by its rules.
        masker: of the training rows, default TokenMasker(tokenizer). Held-out rows always have token masks, with its
            shares and nothing else of it, so that runs which differ in the kind of masking compare.
        seed: of order and masks.
        mask_epochs: how many mask patterns there are: epoch e repeats those of epoch e modulo this; None: each its own.
        num_workers: processes that build batches; 0 builds them in this one. The batches are the same.
        num_proc: processes that tokenize; None takes one per core, fewer for few documents.
        cache_dir: default $DISTILLKIT_CACHE, else ~/.cache/distillkit.

    Raises:
        ConfigError: a value is out of range.
        DataError: the tokenizer has no mask token.

    Attributes:
        start_step: optimizer step to start from, set on resume; None takes the trainer's global_step.
        end_step: optimizer step to stop before; None takes the lesser of the trainer's max_steps and max_epochs.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerFast,
        *,
        max_length: int = 128,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        packing: str = "full",
        language: str = "en",
        masker: Masker | None = None,
        seed: int = 0,
        mask_epochs: int | None = None,
        num_workers: int = 0,
        num_proc: int | None = None,
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_batching(batch_size=batch_size, batch_tokens=batch_tokens, packing=packing, max_length=max_length)
        for key, number, least, what in (
            ("num_workers", num_workers, 0, "processes"),
            ("num_proc", num_proc, 1, "processes"),
            ("mask_epochs", mask_epochs, 1, "epochs"),
        ):
            if number is not None and number < least:
                raise ConfigError(
                    f"not a number of {what}",
                    key=f"data.{key}",
                    value=number,
                    allowed=f">= {least}",
                    fix=f"set data.{key}={least}",
                )
        check_language(language)
        self.corpus, self.tokenizer, self.max_length = corpus, tokenizer, max_length
        self.packing, self.language = packing, language
        self.batch_size, self.batch_tokens, self.seed, self.mask_epochs = batch_size, batch_tokens, seed, mask_epochs
        self.num_workers, self.num_proc, self.cache_dir = num_workers, num_proc, cache_dir
        self.masker: Masker = masker or TokenMasker(tokenizer)
        self._valid_masker = TokenMasker(tokenizer, *self.masker.shares)
        self.start_step: int | None = None
        self.end_step: int | None = None
        self._prepared: PreparedData | None = None
        self._plans: dict[tuple[int, int], BatchPlan] = {}

    def prepare(self) -> PreparedData:
        """Tokenize and pack the corpus, or load it from the cache; the second call returns the first's result.

        Raises:
            DataError: the corpus is missing, unreadable or too small.
            StorageError: the cache cannot be written.
        """
        if self._prepared is None:
            self._prepared = prepare(
                self.corpus,
                self.tokenizer,
                max_length=self.max_length,
                packing=self.packing,
                language=self.language,
                num_proc=self.num_proc,
                cache_dir=self.cache_dir,
            )
            if self.masker.smoothing:
                self.masker = self.masker.weighed(token_counts(self._prepared))
        return self._prepared

    def plan(self, world_size: int = 1, accumulate: int = 1) -> BatchPlan:
        """The batch plan of the training split for a number of ranks and of micro-batches in a step."""
        share = (world_size, accumulate)
        if share not in self._plans:  # of 20 million rows it takes seconds, and every part of a run asks for it
            self._plans[share] = self._plan(*share)
        return self._plans[share]

    def _plan(self, world_size: int, accumulate: int) -> BatchPlan:
        lengths, predictions = self._counts(self.prepare().train, self.masker)
        return BatchPlan(
            lengths,
            predictions,
            seed=self.seed,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            packing=self.packing,
            max_length=self.max_length,
            mask_epochs=self.mask_epochs,
            world_size=world_size,
            accumulate=accumulate,
        )

    def train_stream(
        self,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        start_step: int = 0,
        end_step: int | None = None,
    ) -> DataLoader[Batch]:
        """One rank's training batches of the optimizer steps from start_step up to, not including, end_step.

        Without end_step the stream is endless and has no length; with it, len() is the number of micro-batches.
        """
        end_batch = None if end_step is None else end_step * accumulate
        plan = self.plan(world_size, accumulate)
        sampler = PlanSampler(plan, rank=rank, start_batch=start_step * accumulate, end_batch=end_batch)
        return self._loader(self._train_rows(), sampler)

    def valid_stream(self, rank: int = 0, world_size: int = 1) -> DataLoader[Batch] | None:
        """One rank's share of the held-out rows, in fixed order with fixed masks; None when none are held out.

        Every rank gets the same number of batches (while there are as many rows as ranks), so that ranks never wait
        for each other. Batches carry step=-1 and their own totals.
        """
        valid = self.prepare().valid
        if valid is None:
            return None
        lengths, predictions = self._counts(valid, self._valid_masker)
        order, cuts = self._valid_order(lengths, world_size)
        pieces = np.split(order, cuts[1:-1])[rank::world_size]
        specs = [
            MicroBatch(0, -1, micro, piece, totals_of(lengths[piece], predictions[piece]))
            for micro, piece in enumerate(pieces)
        ]
        return self._loader(self._valid_rows(valid), specs)

    def homes(self, world_size: int = 1, accumulate: int = 1) -> dict[str, Homes]:
        """For "train", and "valid" where rows are held out: which micro-batch has a row first with given masks."""
        prepared = self.prepare()
        plan = self.plan(world_size, accumulate)
        homes = {"train": Homes(self._train_rows(), column(prepared.train, "length"), plan.epoch_rows)}
        if prepared.valid is not None:
            lengths = column(prepared.valid, "length")
            order = self._valid_order(lengths, world_size)
            homes["valid"] = Homes(self._valid_rows(prepared.valid), lengths, lambda epoch: order)
        return homes

    def _valid_order(self, lengths: np.ndarray, world_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Held-out rows of [N] lengths in their order [N] int64, and where their batches are cut, [batches + 1]."""
        order = np.argsort(lengths, kind="stable")  # blocks of packing=full are of one length and keep their order
        rows = self.batch_size or (self.batch_tokens or 0) // self.max_length
        batches = min(len(order), -(-len(order) // (rows * world_size)) * world_size)
        sizes = len(order) // batches + (np.arange(batches) < len(order) % batches)
        return order, np.concatenate([[0], np.cumsum(sizes)])

    def prepare_data(self) -> None:
        """Lightning's hook on the first process of a node: fills the cache."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Lightning's hook on every process: loads the cache."""
        self.prepare()

    def train_dataloader(self) -> DataLoader[Batch]:
        """The rest of training, for the trainer's rank, world size and accumulation."""
        trainer = self._attached()
        share = (trainer.world_size, trainer.accumulate_grad_batches)
        start, end = self.start_step, self.end_step
        if end is None:
            end = lesser_bound(trainer.max_steps, trainer.max_epochs, self.plan(*share).steps_per_epoch)
        return self.train_stream(trainer.global_rank, *share, trainer.global_step if start is None else start, end)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The held-out batches for the trainer's rank; an empty list when none are held out."""
        trainer = self._attached()
        return self.valid_stream(trainer.global_rank, trainer.world_size) or []

    def _attached(self) -> pl.Trainer:
        if self.trainer is None:
            raise RuntimeError("no trainer is attached; use train_stream() and valid_stream() without one")
        return self.trainer

    def _counts(self, split: datasets.Dataset, masker: Masker) -> tuple[np.ndarray, np.ndarray]:
        lengths = column(split, "length")
        return lengths, masker.predictions(lengths, column(split, "maskable"))

    def _train_rows(self) -> MaskedRows:
        return self._rows(self.prepare().train, self.masker, self.seed)

    def _valid_rows(self, split: datasets.Dataset) -> MaskedRows:
        return self._rows(split, self._valid_masker, VALID_SEED)

    def _rows(self, split: datasets.Dataset, masker: Masker, seed: int) -> MaskedRows:
        pad = self.tokenizer.pad_token_id
        return MaskedRows(split, masker, seed=seed, max_length=self.max_length, pad_token_id=0 if pad is None else pad)

    def _loader(self, rows: MaskedRows, specs: Sampler[MicroBatch] | Sequence[MicroBatch]) -> DataLoader[Batch]:
        return _TimedLoader(
            rows,
            sampler=specs,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )


class _TimedLoader(DataLoader[Batch]):
    """Tells how long each batch was waited for; workers start when the iterator is made, as they do without it."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return _timed(super().__iter__())


def _timed(batches: Iterator[Batch]) -> Iterator[Batch]:
    while True:
        with phase("data"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
