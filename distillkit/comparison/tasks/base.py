"""What a task is to the rest of the comparison: its rows, how a model reads them, how its answers are judged."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from distillkit.comparison.tasks.columns import Column
from distillkit.comparison.tasks.readers import Reader
from distillkit.comparison.tasks.sources import TEST, TRAIN, FileRows, Source
from distillkit.errors import ConfigError, DataError, DistillkitError, TeacherError

Outputs = tuple[NDArray[np.float32], ...]
"""What a model says of one feature: its logits without padding, for a span start and end."""


class Task(ABC):
    """One task. Subclasses are the kinds: classification, regression, tagging, span, choice.

    Args:
        source: gives the raw rows of each part where no files are named.
        files: part -> a file, or None; when "train" is named the files take the source's place. Without a "test" a
            share of "train" is held out for it.
        header: whether CSV and TSV files begin with the names of their columns.
        test_fraction: that share, in (0, 1), chosen by a hash of each row.
        max_length: tokens of a feature at most.
        epochs, batch_size, lr: this task's own, the same for every model; None: the recipe's.
        train_rows, test_rows: at most so many rows of a part, drawn once for every model and seed; None: all.
        glue: whether the task belongs to the GLUE average.
        held_out_by: a kind's column of texts that several rows share: such rows are held out together.

    Raises:
        ConfigError: a file to test on is named without one to train on, or test_fraction is out of range.

    Attributes:
        kind: what sort of task it is; a subclass of a kind is of that kind.
        head: the transformers Auto class of the fine-tuned model.
        per_token: whether a feature has an output for each token, so that padding is to be cut off.
    """

    kind: ClassVar[str] = "other"
    head: ClassVar[type]
    per_token: ClassVar[bool] = False
    readers: ClassVar[Mapping[str, Reader]] = {}
    """File suffix -> how this kind reads such a file, besides the formats that every kind reads."""

    def __init__(
        self,
        *,
        source: Source | None = None,
        files: Mapping[str, str | None] | None = None,
        header: bool = True,
        test_fraction: float = 0.1,
        max_length: int = 128,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        train_rows: int | None = None,
        test_rows: int | None = None,
        glue: bool = False,
        held_out_by: Column | None = None,
    ) -> None:
        named = {part: path for part, path in (files or {}).items() if path is not None}
        if named and TRAIN not in named:
            raise ConfigError(
                "a file to test on, none to train on", key="task.*.files.train", value=None, fix="name both"
            )
        own: dict[str, Any] = {"header": header, "test_fraction": test_fraction, "held_out_by": held_out_by}
        self.source, self.glue = FileRows(named, self.readers, **own) if named else source, glue
        self.max_length, self.epochs, self.batch_size, self.lr = max_length, epochs, batch_size, lr
        self.train_rows, self.test_rows = train_rows, test_rows

    # --- rows ------------------------------------------------------------------------------------

    @cached_property
    def parts(self) -> dict[str, datasets.Dataset]:
        """Part -> rows in the columns of the kind; "train", "test" and further test sets, training rows first.

        Raises:
            DataError: a part is missing, empty, cannot be read, or a row of it does not fit; file and row are named.
        """
        if self.source is None:
            raise DataError(
                "no rows are given", key="task.*.files.train", value=None,
                fix="set task.*.files.train=FILE and task.*.files.test=FILE",
            )  # fmt: skip
        raw = self.source.read()
        for part in (TRAIN, TEST):
            if part not in raw:
                raise DataError(f"no rows to {part}", key=f"task.*.files.{part}", value=None, fix="name its file")
        limits = {part: self.train_rows if part == TRAIN else self.test_rows for part in raw}
        # "train" first: it may tell which labels there are; all of its rows, before any are drawn
        order = sorted(raw, key=lambda part: part != TRAIN)
        return {part: _sample(self.normalise(part, raw[part]), limits[part]) for part in order}

    def fingerprint(self) -> dict[str, Any]:
        """What identifies the rows: of files their contents, of a hub's data set its name."""
        return {} if self.source is None else self.source.fingerprint()

    @abstractmethod
    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Raw rows in the columns of the kind; DataError naming the part and the row that does not fit."""

    # --- what a model reads ----------------------------------------------------------------------

    def check_model(self, config: PreTrainedConfig, *, name: str) -> None:
        """Raise TeacherError, naming the model, unless transformers has the head for its class."""
        if type(config) not in self.head._model_mapping:  # type: ignore[attr-defined]
            raise TeacherError(
                f"transformers has no {self.head.__name__} for {config.model_type}",
                key="models", value=name, fix="leave out the model, or the tasks of this kind",
            )  # fmt: skip

    @abstractmethod
    def head_config(self) -> dict[str, Any]:
        """Keywords for the head's from_pretrained: num_labels, id2label, problem_type ... or none."""

    @abstractmethod
    def encode(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, training: bool) -> datasets.Dataset:
        """Features of rows: lists of ids without padding.

        Args:
            rows: of `parts`.
            tokenizer: the model's.
            training: with labels; otherwise labels may be missing.

        Returns:
            Columns that the model's forward takes, and columns beginning with "_" for `answers`; "_row" is the place
            of the feature's row in `rows`.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads features (without the "_" columns) into a batch of tensors."""

    # --- judging ---------------------------------------------------------------------------------

    @abstractmethod
    def answers(self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset) -> list[Any]:
        """One answer a row, as JSON holds it: a label's name, a number, a list of tags, a text.

        Args:
            outputs: of each feature, in order.
            features: of `encode`.
            rows: they were made from.
        """

    @abstractmethod
    def metrics(self, answers: Sequence[Any], rows: datasets.Dataset) -> dict[str, float]:
        """Metric -> value; shares in 0..1, correlations in -1..1. The first entries are those of `score`."""

    @property
    @abstractmethod
    def scored(self) -> tuple[str, ...]:
        """The metrics whose mean is the task's score, over its test sets too."""

    @abstractmethod
    def correct(self, answer: Any, row: Mapping[str, Any]) -> bool:
        """Whether an answer counts as right."""

    def agree(self, one: Any, other: Any) -> bool:
        """Whether two models' answers to a row count as the same."""
        return bool(one == other)

    @abstractmethod
    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """A row as a reader sees it: {"text": ..., "gold": ...}."""

    def show_answer(self, answer: Any, row: Mapping[str, Any]) -> str:
        """An answer to a row as a reader sees it."""
        return str(answer)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts a task's name into the errors raised within: a task does not know its own and says task.*."""
    try:
        yield
    except DistillkitError as error:
        key, fix = (text and text.replace("task.*", f"task.{name}") for text in (error.key, error.fix))
        raise type(error)(error.problem, key=key, value=error.value, allowed=error.allowed, fix=fix) from error


def _sample(rows: datasets.Dataset, most: int | None) -> datasets.Dataset:
    """At most so many rows, drawn alike for every model and seed, in their order."""
    if most is None or len(rows) <= most:
        return rows
    chosen = np.random.default_rng(0).permutation(len(rows))[:most]
    return rows.select(np.sort(chosen))
