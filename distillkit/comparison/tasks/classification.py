"""Tasks of one text or a pair of texts: a label, or a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedTokenizerFast

from distillkit.comparison.tasks.base import Outputs, Task
from distillkit.comparison.tasks.columns import Column, bad_value, column, make_features, one_a_row, texts
from distillkit.comparison.tasks.metrics import CLASSIFICATION, REGRESSION, choose
from distillkit.errors import ConfigError


class _TextTask(Task):
    """One text or a pair; normalised columns "text", "pair" (of a pair) and "label".

    Args:
        text: the column of the text, or the two of a pair.
        label: the column of the label.
        common: see Task.
    """

    head = AutoModelForSequenceClassification

    def __init__(self, *, text: Column | Sequence[Column], label: Column, **common: Any) -> None:
        super().__init__(**common)
        self._texts: list[Column] = [text] if isinstance(text, str | int) else list(text)
        self._label = label
        if not 1 <= len(self._texts) <= 2:
            raise ConfigError("not one text or two", key="task.*.text", value=text, fix="name one column, or two")

    def _text_columns(self, part: str, raw: datasets.Dataset) -> dict[str, list[str]]:
        names = ("text", "pair")[: len(self._texts)]
        return {name: texts(raw, key, part, key="task.*.text") for name, key in zip(names, self._texts, strict=True)}

    def encode(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, training: bool) -> datasets.Dataset:
        """One feature a row, labels always; of a pair the longer text is cut first."""

        def make(batch: dict[str, list[Any]]) -> dict[str, Any]:
            cut: dict[str, Any] = {"truncation": "longest_first", "max_length": self.max_length}
            return {**tokenizer(batch["text"], batch.get("pair"), **cut), "labels": batch["label"]}

        return make_features(rows, one_a_row(make))

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest text of a batch."""
        return DataCollatorWithPadding(tokenizer)

    def _shown_text(self, row: Mapping[str, Any]) -> str:
        return " / ".join(row[name] for name in ("text", "pair") if name in row)


class Classification(_TextTask):
    """One of several labels.

    Args:
        text: the column of the text, or the two of a pair.
        label: the column of the label: a name, an index, or either as text.
        labels: their names in the order of the indices; None: the data set's own, else the training rows', sorted.
        metrics: whose mean is the score: accuracy, f1 (of the last of two labels), macro_f1, matthews.
        common: see Task.

    Raises:
        ConfigError: an unknown metric, not one or two text columns, or fewer than two labels.
    """

    kind = "classification"

    def __init__(
        self,
        *,
        text: Column | Sequence[Column],
        label: Column = "label",
        labels: Sequence[str] | None = None,
        metrics: Sequence[str] = ("accuracy",),
        **common: Any,
    ) -> None:
        super().__init__(text=text, label=label, **common)
        self._metrics = choose(metrics, CLASSIFICATION)
        self._names: list[str] | None = None
        if labels is not None:
            self._set_names([str(name) for name in labels])

    def _set_names(self, names: list[str]) -> None:
        if len(names) < 2 or len(set(names)) < len(names):
            raise ConfigError("not two labels or more", key="task.*.labels", value=names, fix="name each label once")
        if "f1" in self._metrics and len(names) != 2:
            raise ConfigError("f1 is of two labels", key="task.*.metrics", value=[*self._metrics], fix="use macro_f1")
        self._names = names

    @property
    def names(self) -> list[str]:
        """The labels' names; the training rows are read when nothing else tells them."""
        if self._names is None:
            _ = self.parts
        assert self._names is not None
        return self._names

    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Columns "text", "pair" (of a pair) and "label", a ClassLabel."""
        name = column(raw, self._label, part, key="task.*.label")
        values, feature = raw[name][:], raw.features[name]
        own = feature.names if isinstance(feature, datasets.ClassLabel) else None
        if self._names is None:
            self._set_names(own or _found(values))
        columns = {**self._text_columns(part, raw), "label": self._indices(part, values, own)}
        features = {key: datasets.Value("string") for key in columns}
        return datasets.Dataset.from_dict(
            columns, features=datasets.Features({**features, "label": datasets.ClassLabel(names=self._names)})
        )

    def _indices(self, part: str, values: list[Any], own: list[str] | None) -> list[int]:
        """The labels' indices; `own` are the names that the data set itself gives to its indices."""
        index = {name: number for number, name in enumerate(self.names)}
        if not any(name.isdigit() for name in index):  # else a number is a name
            index |= {str(number): number for number in range(len(self.names))}
        if own is not None:
            values = [own[value] if value is not None and 0 <= value < len(own) else value for value in values]
        for number, value in enumerate(values, 1):
            if str(value) not in index:
                hidden = value is None or str(value) == "-1"
                problem = "its label is hidden" if hidden else f"{value!r} is no label"
                fix = "judge on rows with labels (GLUE's validation)" if hidden else "repair it, or list task.*.labels"
                allowed = ", ".join(self.names[:20])
                raise bad_value(problem, part, number, key="task.*.label", value=value, allowed=allowed, fix=fix)
        return [index[str(value)] for value in values]

    def head_config(self) -> dict[str, Any]:
        """The labels, both ways round."""
        return {
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
            "label2id": {name: number for number, name in enumerate(self.names)},
            "problem_type": "single_label_classification",
        }

    def answers(self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset) -> list[str]:
        """The likeliest label's name."""
        return [self.names[int(logits.argmax())] for (logits,) in outputs]

    def metrics(self, answers: Sequence[Any], rows: datasets.Dataset) -> dict[str, float]:
        """Those chosen, over the labels' indices."""
        index = {name: number for number, name in enumerate(self.names)}
        predictions = [index[answer] for answer in answers]
        return {name: metric(predictions, rows["label"][:]) for name, metric in self._metrics.items()}

    @property
    def scored(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._metrics)

    def correct(self, answer: Any, row: Mapping[str, Any]) -> bool:
        """Whether it is the row's label."""
        return bool(answer == self.names[row["label"]])

    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The text or texts, and the label's name."""
        return {"text": self._shown_text(row), "gold": self.names[row["label"]]}


def _found(values: Sequence[Any]) -> list[str]:
    """The labels among the training rows, sorted: as numbers when all of them are."""
    names = {str(value) for value in values if value is not None}
    return sorted(names, key=int if all(name.isdigit() for name in names) else None)


class Regression(_TextTask):
    """A number.

    Args:
        text: the column of the text, or the two of a pair.
        label: the column of the number.
        label_range: the least and the greatest number that a row may have; None: any.
        metrics: whose mean is the score: pearson, spearman.
        tolerance: two numbers no further apart count as the same answer.
        common: see Task.

    Raises:
        ConfigError: an unknown metric, or not one or two text columns.
    """

    kind = "regression"

    def __init__(
        self,
        *,
        text: Column | Sequence[Column],
        label: Column = "label",
        label_range: tuple[float, float] | None = None,
        metrics: Sequence[str] = ("pearson", "spearman"),
        tolerance: float = 0.5,
        **common: Any,
    ) -> None:
        super().__init__(text=text, label=label, **common)
        self._metrics = choose(metrics, REGRESSION)
        self._least, self._greatest = label_range or (-math.inf, math.inf)
        self._tolerance = tolerance

    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Columns "text", "pair" (of a pair) and "label", a float."""
        values = raw[column(raw, self._label, part, key="task.*.label")][:]
        labels = [self._number(value, part, number) for number, value in enumerate(values, 1)]
        return datasets.Dataset.from_dict({**self._text_columns(part, raw), "label": labels})

    def _number(self, value: Any, part: str, row: int) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and self._least <= number <= self._greatest:
            return number
        allowed = f" in {self._least}..{self._greatest}" if math.isfinite(self._least) else ""
        raise bad_value(f"{value!r} is no number{allowed}", part, row, key="task.*.label", value=value)

    def head_config(self) -> dict[str, Any]:
        """One output."""
        return {"num_labels": 1, "problem_type": "regression"}

    def answers(self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset) -> list[float]:
        """The output itself."""
        return [float(logits[0]) for (logits,) in outputs]

    def metrics(self, answers: Sequence[Any], rows: datasets.Dataset) -> dict[str, float]:
        """Those chosen."""
        return {name: metric(answers, rows["label"][:]) for name, metric in self._metrics.items()}

    @property
    def scored(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._metrics)

    def correct(self, answer: Any, row: Mapping[str, Any]) -> bool:
        """Whether it is near the row's number."""
        return self.agree(answer, row["label"])

    def agree(self, one: Any, other: Any) -> bool:
        """Whether two numbers are near each other."""
        return bool(abs(one - other) <= self._tolerance)

    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The text or texts, and the number."""
        return {"text": self._shown_text(row), "gold": self.show_answer(row["label"], row)}

    def show_answer(self, answer: Any, row: Mapping[str, Any]) -> str:
        """Two decimals."""
        return f"{answer:.2f}"
