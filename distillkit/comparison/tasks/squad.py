"""SQuAD's own files and measures."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from distillkit.comparison.tasks.readers import read_json
from distillkit.errors import DataError

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "context": datasets.Value("string"),
        "answers": {
            "text": datasets.List(datasets.Value("string")),
            "answer_start": datasets.List(datasets.Value("int32")),
        },
    }
)
"""Columns of a row, as the hub has them; answer_start counts characters of the context."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def read_squad(path: Path) -> datasets.Dataset:
    """Questions of a file in the official nesting (data, paragraphs, qas), or a list of rows.

    Args:
        path: SQuAD v1.1 or v2; a question with is_impossible has no answers.

    Returns:
        Columns of FEATURES; of a list those that its rows have.

    Raises:
        DataError: the file is no such JSON.
    """
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        return read_json(path)
    try:
        rows = list(_questions(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"not in the official SQuAD format ({type(error).__name__}: {error})", key="task.*.files", value=path,
            allowed='{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}',
            fix="rows of id, question, context, answers belong into a list, or into a .jsonl or .parquet file",
        ) from error  # fmt: skip
    return datasets.Dataset.from_list(rows, features=FEATURES)


def _questions(tree: Any) -> Iterator[dict[str, Any]]:
    for article in tree["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                given = [] if question.get("is_impossible", False) else question["answers"]
                answers = {key: [answer[key] for answer in given] for key in ("text", "answer_start")}
                shared = {"id": question["id"], "question": question["question"], "context": paragraph["context"]}
                yield shared | {"answers": answers}


def normalise_answer(text: str) -> str:
    """An answer in lower case without punctuation, articles and superfluous spaces.

    Source: SQuAD's evaluate-v1.1.py and evaluate-v2.0.py.
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the answer is one of the gold answers after normalisation, else 0; without gold answers, if it is empty."""
    return _best(answer, gold, lambda one, other: float(one == other))


def f1(answer: str, gold: Sequence[str]) -> float:
    """The words' F1 with the gold answer that it fits best, in 0..1; without gold answers, 1 if it is empty.

    Source: SQuAD's evaluate-v2.0.py, which agrees with v1.1's unless a normalised answer is empty.
    """
    return _best(answer, gold, _word_f1)


def _best(answer: str, gold: Sequence[str], score: Callable[[str, str], float]) -> float:
    # as in v2.0's script, gold answers of nothing but articles and punctuation do not count
    others = [text for text in map(normalise_answer, gold) if text] or [""]
    return max(score(normalise_answer(answer), other) for other in others)


def _word_f1(answer: str, gold: str) -> float:
    found, wanted = answer.split(), gold.split()
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def best_threshold(
    answered: NDArray[np.float64], unanswered: NDArray[np.float64], null_odds: NDArray[np.float64]
) -> tuple[float, float]:
    """The threshold of null odds above which a question is best left unanswered.

    Rows of equal odds are decided alike, which the script does not see to: its value is then one that no threshold
    reaches.

    Args:
        answered: [rows], what each row scores with its text.
        unanswered: [rows], what each row scores with an empty answer.
        null_odds: [rows], how much rather the model gives no answer.

    Returns:
        The best mean score and the lowest threshold that reaches it.

    Source: find_best_thresh of SQuAD's evaluate-v2.0.py.
    """
    order = np.argsort(null_odds, kind="stable")
    odds = null_odds[order]
    totals = unanswered.sum() + np.concatenate([[0.0], np.cumsum((answered - unanswered)[order])])
    reached = np.concatenate([[True], odds[1:] != odds[:-1], [True]])
    thresholds = np.concatenate([[odds[0] - 1.0], odds])
    best = int(np.argmax(np.where(reached, totals, -np.inf)))
    return float(totals[best] / len(odds)), float(thresholds[best])
