"""Rows, answers and files of questions that several tests share."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from distillkit.comparison.tasks import squad
from distillkit.comparison.tasks.base import Outputs
from distillkit.comparison.tasks.span import Span
from tests.faults.harness import WORDS
from tests.unit.comparison.token_parts import Rows

CONTEXT = " ".join(f"w{number}" for number in range(40))
SMALL: dict[str, Any] = {"max_length": 20, "stride": 4, "max_question_length": 4}
"""Windows of 20 - 3 special - 2 question = 15 context tokens, a new one every 11."""


def row(answer: str | None, *, context: str = CONTEXT, question: str = "w90 w91", name: str = "q") -> dict[str, Any]:
    """One row in the columns of a task; None has no answer."""
    given = {"text": [], "answer_start": []} if answer is None else _answers(answer, context)
    return {"id": name, "question": question, "context": context, "answers": given}


def _answers(answer: str, context: str) -> dict[str, list[Any]]:
    return {"text": [answer], "answer_start": [context.index(answer)]}


def span(*rows: dict[str, Any], **options: Any) -> Span:
    """A task of small windows whose rows to train and to test are these."""
    table = datasets.Dataset.from_list(list(rows), features=squad.FEATURES)
    return Span(source=Rows(table, table), **(SMALL | options))


def hub_rows(count: int = 20) -> datasets.Dataset:
    """Rows in the hub's columns and order; the answer is the word that the question names."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        words = [str(word) for word in rng.choice(WORDS, size=8, replace=False)]
        asked = {"id": str(number), "title": "t", "context": " ".join(words), "question": words[number % 8]}
        rows.append(asked | {"answers": _answers(words[number % 8], asked["context"])})
    answers = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
    columns = {name: datasets.Value("string") for name in ("id", "title", "context", "question")}
    return datasets.Dataset.from_list(rows, features=datasets.Features({**columns, "answers": answers}))


def nested(rows: datasets.Dataset) -> dict[str, Any]:
    """The official nesting of rows."""
    questions = [
        {
            "context": own["context"],
            "qas": [{
                "id": own["id"], "question": own["question"], "is_impossible": False,
                "answers": [{"text": text, "answer_start": start}
                            for text, start in zip(*own["answers"].values(), strict=True)],
            }],
        }
        for own in rows
    ]  # fmt: skip
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": questions}]}


def point(
    features: datasets.Dataset, spans: dict[int, list[tuple[int, int, float]]], null: float = 0.0
) -> list[Outputs]:
    """Outputs by hand: window -> (first character, end, logit of both), and the logit of [CLS]."""
    outputs = []
    for number, window in enumerate(features):
        start = np.full(len(window["input_ids"]), -5.0, np.float32)
        end = start.copy()
        start[window["_null"]] = end[window["_null"]] = null
        for first, last, logit in spans.get(number, []):
            start[window["_starts"].index(first)] = logit
            end[window["_ends"].index(last)] = logit
        outputs.append((start, end))
    return outputs


def place(text: str, context: str = CONTEXT) -> tuple[int, int]:
    """First character of a text in the context, and the one after its last."""
    first = context.index(text)
    return first, first + len(text)
