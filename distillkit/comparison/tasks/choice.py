"""Multiple choice: which of several options answers a question about a text."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
from transformers import AutoModelForMultipleChoice, DataCollatorForMultipleChoice, PreTrainedTokenizerFast

from distillkit.comparison.tasks.base import Outputs, Task
from distillkit.comparison.tasks.columns import Column, bad_value, column, make_features, one_a_row, texts
from distillkit.comparison.tasks.metrics import accuracy
from distillkit.comparison.tasks.readers import KEY, Reader, from_objects, parse_json
from distillkit.errors import DataError

_LETTERS = string.ascii_uppercase


def _read_race(file: Path) -> datasets.Dataset:
    """A file of the original RACE: one JSON object with an article and lists of questions, options and answers."""
    exam = parse_json(file, file.read_text(encoding="utf-8-sig"))
    lists: list[Any] = [
        exam.get(name) if isinstance(exam, dict) else None for name in ("questions", "options", "answers")
    ]
    if not all(isinstance(values, list) for values in lists) or len({len(values) for values in lists}) > 1:
        problem = "not an exam of RACE: article, and as many questions as options and answers"
        raise DataError(problem, key=KEY, value=file, fix="leave the file out")
    common = {"example_id": exam.get("id"), "article": exam.get("article")}
    rows = [
        {**common, "answer": answer, "question": question, "options": options}
        for question, options, answer in zip(*lists, strict=True)
    ]
    return from_objects(file, rows)


class Choice(Task):
    """One of several options; normalised columns "context", "question", "options" (texts) and "label" (an index).

    A model reads the context and, as the second text, the question with an option: in the place of the question's
    blank (a run of "_"), otherwise after it. The context alone is cut to max_length; only a question that fills more
    than half of it loses its beginning.

    Args:
        context, question: columns of texts.
        options: the column that lists them, or a column for each.
        answer: the column of the right option: a letter from A, or an index from 0.
        common: see Task.
    """

    kind = "choice"
    head = AutoModelForMultipleChoice
    readers: ClassVar[Mapping[str, Reader]] = {".txt": _read_race}

    def __init__(
        self,
        *,
        context: Column = "context",
        question: Column = "question",
        options: Column | Sequence[Column] = "options",
        answer: Column = "answer",
        **common: Any,
    ) -> None:
        super().__init__(held_out_by=context, **common)
        self._context, self._question, self._options, self._answer = context, question, options, answer

    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Columns "context", "question", "options" and "label"; every row has as many options."""
        options = self._all_options(part, raw)
        values = raw[column(raw, self._answer, part, key="task.*.answer")][:]
        rows = enumerate(zip(values, options, strict=True), 1)
        return datasets.Dataset.from_dict(
            {
                "context": texts(raw, self._context, part, key="task.*.context"),
                "question": texts(raw, self._question, part, key="task.*.question"),
                "options": options,
                "label": [_label(value, len(given), part, number) for number, (value, given) in rows],
            }
        )

    def _all_options(self, part: str, raw: datasets.Dataset) -> list[list[str]]:
        key = "task.*.options"
        if not isinstance(self._options, str | int):
            each = [texts(raw, name, part, key=key) for name in self._options]
            return [list(options) for options in zip(*each, strict=True)]
        every: list[Any] = raw[column(raw, self._options, part, key=key)][:]
        for number, options in enumerate(every, 1):
            if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
                raise bad_value("its options are no list of texts", part, number, key=key, value=self._options)
            if not 2 <= len(options) == len(every[0]) <= len(_LETTERS):
                problem = f"{len(options)} options, the first row has {len(every[0])}: 2 to 26, as many in each row"
                raise bad_value(problem, part, number, key=key, value=self._options)
        return every

    def head_config(self) -> dict[str, Any]:
        """Nothing: the head scores one option at a time."""
        return {}

    def encode(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, training: bool) -> datasets.Dataset:
        """One feature a row, labels always; a list of ids for each option."""
        room = self.max_length - tokenizer.num_special_tokens_to_add(pair=True)

        def make(batch: dict[str, list[Any]]) -> dict[str, Any]:
            count = len(batch["options"][0])
            contexts = [context for context in batch["context"] for _ in range(count)]
            pairs = zip(batch["question"], batch["options"], strict=True)
            queries = [_query(question, option) for question, options in pairs for option in options]
            queries = _ends(queries, tokenizer, room // 2)
            encoded = tokenizer(contexts, queries, truncation="only_first", max_length=self.max_length)
            nested = {
                name: [ids[start : start + count] for start in range(0, len(ids), count)]
                for name, ids in encoded.items()
            }
            return {**nested, "labels": batch["label"]}

        return make_features(rows, one_a_row(make))

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads to the longest option of a batch: [rows, options, tokens]; features may have no labels."""
        pad = DataCollatorForMultipleChoice(tokenizer)

        def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
            batch = pad([{"labels": 0, **feature} for feature in features])  # it cannot do without labels
            return {name: tensor for name, tensor in batch.items() if name != "labels" or name in features[0]}

        return collate

    def answers(self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset) -> list[str]:
        """The likeliest option's letter."""
        return [_LETTERS[int(logits.argmax())] for (logits,) in outputs]

    def metrics(self, answers: Sequence[Any], rows: datasets.Dataset) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": accuracy([_LETTERS.index(answer) for answer in answers], rows["label"][:])}

    @property
    def scored(self) -> tuple[str, ...]:
        """Accuracy."""
        return ("accuracy",)

    def correct(self, answer: Any, row: Mapping[str, Any]) -> bool:
        """Whether it is the right option's letter."""
        return bool(answer == _LETTERS[row["label"]])

    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The question with its lettered options, without the context; the right letter."""
        lettered = "; ".join(f"{letter}: {option}" for letter, option in zip(_LETTERS, row["options"], strict=False))
        return {"text": f"{row['question']} ({lettered})", "gold": _LETTERS[row["label"]]}


def _label(value: Any, count: int, part: str, row: int) -> int:
    """An answer's index."""
    names = {letter: number for number, letter in enumerate(_LETTERS[:count])}
    names |= {str(number): number for number in range(count)}
    if str(value) not in names:
        problem = f"{value!r} is no letter from A to {_LETTERS[count - 1]}, and no index from 0"
        raise bad_value(problem, part, row, key="task.*.answer", value=value)
    return names[str(value)]


def _query(question: str, option: str) -> str:
    """The question with an option in place of its blank, else after it: the usual reading of RACE."""
    filled, blanks = re.subn("_+", lambda _: option, question)
    return filled if blanks else f"{question} {option}"


def _ends(queries: list[str], tokenizer: PreTrainedTokenizerFast, most: int) -> list[str]:
    """The last tokens of each text, as text: where the option stands."""
    spans = tokenizer(queries, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [query[span[-most][0] :] if len(span) > most else query for query, span in zip(queries, spans, strict=True)]
