"""Tasks whose answer is a piece of the text: extractive question answering."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import datasets
import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedTokenizerFast

from distillkit.comparison.tasks import squad
from distillkit.comparison.tasks.base import Outputs, Task
from distillkit.comparison.tasks.columns import bad_value, make_features
from distillkit.comparison.tasks.sources import Reader
from distillkit.comparison.tasks.tokens import Columns, pad_right
from distillkit.comparison.tasks.windows import best_span, token_span
from distillkit.errors import ConfigError, DataError

MEASURES = {"f1": squad.f1, "exact_match": squad.exact_match}
NO_ANSWER = "(no answer)"


class Span(Task):
    """Questions on a text, answered by a piece of it.

    Rows have id, question, context and answers {"text": [...], "answer_start": [...]}. A context that is too long is
    read in windows that overlap; those without the answer are taught to point at the first special token ([CLS]).

    With `unanswerable` a question may have no answer, and an answer is empty where its null odds, the score of [CLS]
    less that of the best piece, exceed `threshold`. With `threshold` None that number is the one with the best F1 on
    the very rows that are judged: the official and customary figure, and an optimistic one. A number fixes it.

    Args:
        max_length: tokens of a window at most.
        stride: tokens that neighbouring windows share; at most half of the context's in a window, so that windows
            move on with a model that reads fewer tokens.
        max_question_length: tokens of a question at most, and at most half a window.
        max_answer_length: tokens of an answer at most.
        n_best: starts and ends of a window that are paired.
        unanswerable: whether questions may have no answer (SQuAD v2).
        threshold: null odds above which an answer is empty; None: the best for the rows judged.
        metrics: those whose mean is the score: f1, exact_match.
        common: of Task.

    Raises:
        ConfigError: a metric is unknown.
    """

    kind: ClassVar[str] = "span"
    head: ClassVar[type] = AutoModelForQuestionAnswering
    per_token: ClassVar[bool] = True
    readers: ClassVar[Mapping[str, Reader]] = {".json": squad.read_squad}

    def __init__(
        self,
        *,
        max_length: int = 384,
        stride: int = 128,
        max_question_length: int = 64,
        max_answer_length: int = 30,
        n_best: int = 20,
        unanswerable: bool = False,
        threshold: float | None = None,
        metrics: Sequence[str] = ("f1",),
        **common: Any,
    ) -> None:
        super().__init__(max_length=max_length, held_out_by="context", **common)
        self.stride, self.max_question_length = stride, max_question_length
        self.max_answer_length, self.n_best = max_answer_length, n_best
        self.unanswerable, self.threshold = unanswerable, threshold
        self._scored = tuple(metrics)
        if not self._scored or not set(self._scored) <= MEASURES.keys():
            raise ConfigError("unknown metric", key="task.*.metrics", value=list(metrics), allowed=", ".join(MEASURES))

    # --- rows ------------------------------------------------------------------------------------

    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Rows with the columns of squad.FEATURES.

        Raises:
            DataError: a column is missing, or an answer does not stand where it is said to; row and id are named.
        """
        if missing := [column for column in squad.FEATURES if column not in raw.column_names]:
            columns = ", ".join(raw.column_names)
            raise DataError(f"no column {missing[0]}", key=f"task.*.files.{part}", value=None, allowed=columns)
        rows = raw.select_columns(list(squad.FEATURES)).to_list()
        for number, row in enumerate(rows, 1):
            self._check(part, number, row)
        return datasets.Dataset.from_list(rows, features=squad.FEATURES)

    def _check(self, part: str, number: int, row: dict[str, Any]) -> None:
        place: dict[str, Any] = {"key": f"task.*.files.{part}", "value": f"id {row['id']}"}
        try:
            pairs = list(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
            wrong = [text for text, start in pairs if not _stands(text, row["context"], start)]
        except (TypeError, KeyError, ValueError) as error:
            allowed = '{"text": [...], "answer_start": [...]}, as many of both'
            raise bad_value("not an answer", part, number, **place, allowed=allowed) from error
        if wrong:
            problem = f"the answer {wrong[0][:40]!r} does not stand at its answer_start in the context"
            raise bad_value(problem, part, number, **place, fix="count characters of the context from 0")
        if not pairs and not self.unanswerable:
            fix = "set task.*.unanswerable=true"
            raise bad_value("the question has no answer", part, number, **place, fix=fix)

    # --- what a model reads ----------------------------------------------------------------------

    def head_config(self) -> dict[str, Any]:
        """Nothing: a start and an end are two outputs of every model."""
        return {}

    def encode(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, training: bool) -> datasets.Dataset:
        """Windows of the rows, one or more each.

        To judge, "_starts" and "_ends" are the characters of the context that a token covers, -1 outside the context,
        and "_null" is the place of [CLS].

        Raises:
            ConfigError: max_length leaves no room for a context.
        """
        special = tokenizer.num_special_tokens_to_add(pair=True)
        question = min(self.max_question_length, self.max_length // 2)
        room = self.max_length - special - question
        if room < 2:
            raise ConfigError("no room for a context", key="task.*.max_length", value=self.max_length, fix="raise it")
        encode = partial(
            self._encode, tokenizer=tokenizer, training=training, question=question, stride=min(self.stride, room // 2)
        )
        return make_features(rows, encode)

    def _encode(
        self,
        rows: Columns,
        first: int,
        *,
        tokenizer: PreTrainedTokenizerFast,
        training: bool,
        question: int,
        stride: int,
    ) -> Columns:
        encoded = tokenizer(
            _cut(rows["question"], tokenizer, question), rows["context"], truncation="only_second",
            max_length=self.max_length, stride=stride, return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        columns: Columns = dict(encoded)
        offsets, owners = columns.pop("offset_mapping"), columns.pop("overflow_to_sample_mapping")
        columns["_row"] = [first + owner for owner in owners]
        nulls = [_null_place(ids, tokenizer) for ids in columns["input_ids"]]
        # which tokens are the context's is asked of the tokenizer: some put it first, some mark no types
        inside = [[own == 1 for own in encoded.sequence_ids(number)] for number in range(len(owners))]
        for column, side in (("_starts", 0), ("_ends", 1)):
            columns[column] = [
                [pair[side] if within else -1 for pair, within in zip(pairs, mask, strict=True)]
                for pairs, mask in zip(offsets, inside, strict=True)
            ]
        if not training:
            return columns | {"_null": nulls}
        answers = [rows["answers"][owner] for owner in owners]
        windows = zip(columns.pop("_starts"), columns.pop("_ends"), answers, nulls, strict=True)
        spans = [token_span(starts, ends, answer, null) for starts, ends, answer, null in windows]
        return columns | {"start_positions": [s for s, _ in spans], "end_positions": [e for _, e in spans]}

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads on the right, so that positions stay."""
        return DataCollatorWithPadding(pad_right(tokenizer))

    # --- judging ---------------------------------------------------------------------------------

    def answers(self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset) -> list[Any]:
        """The best piece of each context over its windows, by the sum of its start's and end's logits.

        Returns:
            A text a row; with `unanswerable` {"text": the answer, "span": the best piece, "null_odds"}.
        """
        contexts, count = rows["context"], len(rows)
        best, null, spans = np.full(count, -np.inf), np.full(count, np.inf), [""] * count
        windows = features.select_columns(["_row", "_null", "_starts", "_ends"])
        for (start, end), window in zip(outputs, windows, strict=True):
            row, place = window["_row"], window["_null"]
            null[row] = min(null[row], float(start[place] + end[place]))
            found = best_span(start, end, window["_starts"], window["_ends"], self.n_best, self.max_answer_length)
            if found is not None and found.score > best[row]:
                best[row] = found.score
                spans[row] = contexts[row][found.start : found.end].strip()
        if not self.unanswerable:
            return list(spans)
        odds = np.where(np.isfinite(best), null - best, 0.0)  # without a piece the answer is empty either way
        threshold = self.threshold if self.threshold is not None else _search("f1", spans, odds, rows)[1]
        return [
            {"text": "" if own > threshold else span, "span": span, "null_odds": float(own)}
            for span, own in zip(spans, odds, strict=True)
        ]

    def metrics(self, answers: Sequence[Any], rows: datasets.Dataset) -> dict[str, float]:
        """Words' F1 and exact match, in 0..1.

        With `unanswerable` also of the rows with and without an answer, and what the best threshold for each of the
        two gives (best_f1, best_exact and these thresholds, which are logits).

        Source: SQuAD's evaluate-v1.1.py and evaluate-v2.0.py, whose names these are.
        """
        gold = [answer["text"] for answer in rows["answers"]]
        values = {name: _scores(name, [_text(answer) for answer in answers], gold) for name in MEASURES}
        means = {name: float(values[name].mean()) for name in (*self._scored, *MEASURES)}
        if not self.unanswerable:
            return means
        known = np.array([bool(texts) for texts in gold])
        for kind, chosen in (("HasAns", known), ("NoAns", ~known)):
            if chosen.any():
                means[f"{kind}_exact"] = float(values["exact_match"][chosen].mean())
                means[f"{kind}_f1"] = float(values["f1"][chosen].mean())
        spans, odds = [answer["span"] for answer in answers], np.array([answer["null_odds"] for answer in answers])
        for name, metric in (("best_f1", "f1"), ("best_exact", "exact_match")):
            means[name], means[f"{name}_thresh"] = _search(metric, spans, odds, rows)
        return means

    @property
    def scored(self) -> tuple[str, ...]:
        """The configured metrics."""
        return self._scored

    def correct(self, answer: Any, row: Mapping[str, Any]) -> bool:
        """Whether the answer is one of the row's, normalised."""
        return bool(squad.exact_match(_text(answer), row["answers"]["text"]))

    def agree(self, one: Any, other: Any) -> bool:
        """Whether both are the same, normalised."""
        return squad.normalise_answer(_text(one)) == squad.normalise_answer(_text(other))

    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The question and its context."""
        gold = " / ".join(dict.fromkeys(row["answers"]["text"]))
        return {"text": f"{row['question'].strip()} [{row['context']}]", "gold": gold or NO_ANSWER}

    def show_answer(self, answer: Any, row: Mapping[str, Any]) -> str:
        """The text."""
        return _text(answer) or NO_ANSWER


def _cut(questions: Sequence[str], tokenizer: PreTrainedTokenizerFast, length: int) -> list[str]:
    """The questions without outer spaces, the `length` tokens that a truncation keeps."""
    bare = [question.strip() for question in questions]
    encoded = tokenizer(
        bare, add_special_tokens=False, truncation=True, max_length=length, return_offsets_mapping=True
    )  # fmt: skip
    kept = [(pairs[0][0], pairs[-1][1]) if pairs else (0, 0) for pairs in encoded["offset_mapping"]]
    return [question[start:end] for question, (start, end) in zip(bare, kept, strict=True)]


def _stands(text: str, context: str, start: int) -> bool:
    """Whether a text is there; a negative start would count from the end."""
    return bool(text.strip()) and start >= 0 and context.startswith(text, start)


def _text(answer: Any) -> str:
    return answer["text"] if isinstance(answer, Mapping) else answer


def _scores(metric: str, texts: Sequence[str], gold: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array([MEASURES[metric](text, own) for text, own in zip(texts, gold, strict=True)])


def _search(metric: str, spans: Sequence[str], odds: np.ndarray, rows: datasets.Dataset) -> tuple[float, float]:
    """The best mean over thresholds of null odds, and that threshold."""
    gold = [answer["text"] for answer in rows["answers"]]
    return squad.best_threshold(_scores(metric, spans, gold), _scores(metric, [""] * len(spans), gold), odds)


def _null_place(ids: Sequence[int], tokenizer: PreTrainedTokenizerFast) -> int:
    """Where [CLS] stands, at the end with some tokenizers; the first token where there is none."""
    return ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id in ids else 0
