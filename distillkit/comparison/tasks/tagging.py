"""Tasks that give every word a tag: named entities and the like."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import datasets
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedTokenizerFast

from distillkit.comparison.tasks.base import TRAIN, Outputs, Task
from distillkit.comparison.tasks.columns import make_features
from distillkit.comparison.tasks.conll import OUTSIDE, TAG, is_iob1, read_conll, to_iob2
from distillkit.comparison.tasks.sources import Reader
from distillkit.comparison.tasks.tokens import Columns, pad_right
from distillkit.errors import DataError

IGNORED = -100
"""The label that torch's cross entropy leaves out."""

_FEATURES = datasets.Features(
    {"tokens": datasets.List(datasets.Value("string")), "tags": datasets.List(datasets.Value("string"))}
)


class Tagging(Task):
    """A tag for every word, judged by whole entities.

    Rows have tokens, the words of a sentence, and tags, one a word: O, B-TYPE, I-TYPE. IOB1 becomes IOB2, with a
    warning. A word is tagged at its first sub-token; a word that has none, or that stands beyond max_length, is O.

    Args:
        tokens: column with the words of a row.
        tags: column with their tags: names, or numbers whose names the column or `labels` knows.
        labels: the tags a model can give, in the order of their numbers; None: those of the training rows, O first.
        common: of Task.
    """

    kind: ClassVar[str] = "tagging"
    head: ClassVar[type] = AutoModelForTokenClassification
    per_token: ClassVar[bool] = True
    readers: ClassVar[Mapping[str, Reader]] = dict.fromkeys(
        (".conll", ".txt", ".bio", ".iob", ".iob2", ".tsv"), read_conll
    )

    def __init__(
        self, *, tokens: str = "tokens", tags: str = "ner_tags", labels: Sequence[str] | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.tokens, self.tags = tokens, tags
        self._labels = None if labels is None else list(labels)

    # --- rows ------------------------------------------------------------------------------------

    def normalise(self, part: str, raw: datasets.Dataset) -> datasets.Dataset:
        """Rows with the names of their tags, in IOB2.

        Raises:
            DataError: a column is missing, a row has not one tag for each word, or a tag is none of IOB2's.
        """
        for key, column in (("tokens", self.tokens), ("tags", self.tags)):
            if column not in raw.column_names:
                columns = ", ".join(raw.column_names)
                raise DataError(f"no such column in {part}", key=f"task.*.{key}", value=column, allowed=columns)
        words, tags = list(raw[self.tokens]), list(raw[self.tags])
        feature = getattr(raw.features[self.tags], "feature", None)
        names = feature.names if isinstance(feature, datasets.ClassLabel) else self._labels
        for number, (row_words, row_tags) in enumerate(zip(words, tags, strict=True)):
            tags[number] = self._named(f"row {number + 1} of the {part} rows", row_words, row_tags, names)
        if is_iob1(tags):
            warnings.warn(f"the tags of {part} are IOB1: read as IOB2, the same entities", stacklevel=2)
            tags = [to_iob2(row) for row in tags]
        if part == TRAIN and self._labels is not None:
            self._check_labels(tags, self._labels)
        return datasets.Dataset.from_dict({"tokens": words, "tags": tags}, features=_FEATURES)

    def _named(self, place: str, words: Any, tags: Any, names: Sequence[str] | None) -> list[str]:
        """A row's tags by name; DataError naming the row."""
        if not isinstance(words, list) or not isinstance(tags, list) or len(words) != len(tags):
            counts = [len(cells) if isinstance(cells, list) else "no list of" for cells in (words, tags)]
            problem = f"{place} has {counts[0]} words and {counts[1]} tags"
            raise DataError(problem, key="task.*.tags", value=self.tags, fix="give every word one tag")
        if not all(isinstance(word, str) for word in words):
            raise DataError(f"{place} has a word that is no text", key="task.*.tokens", value=self.tokens)
        named = [tag if isinstance(tag, str) else self._name(place, tag, names) for tag in tags]
        if unknown := [tag for tag in named if not TAG.fullmatch(tag)]:
            problem = f"{place} has the tag {unknown[0]!r}"
            raise DataError(problem, key="task.*.tags", value=self.tags, allowed="O, B-TYPE, I-TYPE (E-, S-)")
        return named

    def _name(self, place: str, tag: Any, names: Sequence[str] | None) -> str:
        if names is None:
            problem = f"{place} has numbers for tags, and nothing names them"
            raise DataError(problem, key="task.*.labels", value=None, fix="set task.*.labels=[O,B-TYPE,I-TYPE,...]")
        if not isinstance(tag, int) or not 0 <= tag < len(names):
            allowed = f"0 to {len(names) - 1}: {', '.join(names)}"
            raise DataError(f"{place} has the tag {tag}", key="task.*.tags", value=self.tags, allowed=allowed)
        return names[tag]

    def _check_labels(self, sentences: Sequence[Sequence[str]], labels: Sequence[str]) -> None:
        if unknown := sorted({tag for tags in sentences for tag in tags} - set(labels)):
            problem = f"the training rows have the tag {unknown[0]}, which is not among them"
            raise DataError(problem, key="task.*.labels", value=labels, fix="add it, or set task.*.labels=null")

    @cached_property
    def labels(self) -> list[str]:
        """The tags a model can give, in the order of their numbers."""
        if self._labels is not None:
            return self._labels
        seen = {tag for tags in self.parts[TRAIN]["tags"] for tag in tags}
        return [OUTSIDE, *sorted(seen - {OUTSIDE})]

    # --- what a model reads ----------------------------------------------------------------------

    def head_config(self) -> dict[str, Any]:
        """Number and names of the tags."""
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "label2id": {name: n for n, name in names.items()}}

    def encode(self, rows: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, *, training: bool) -> datasets.Dataset:
        """One feature a row; "_words" is the word that begins at a token, -1 at all others.

        Warns of words that are not read: an answer is O there.
        """
        features = make_features(rows, partial(self._encode, tokenizer=tokenizer, training=training))
        words = sum(map(len, rows["tokens"]))
        if unread := words - sum(word >= 0 for starts in features["_words"] for word in starts):
            reason = f"beyond {self.max_length} tokens, or unknown to the tokenizer"
            warnings.warn(f"{unread} of {words} words are not read ({reason}): they count as O", stacklevel=2)
        return features

    def _encode(self, rows: Columns, first: int, *, tokenizer: PreTrainedTokenizerFast, training: bool) -> Columns:
        # A byte-level tokenizer knows a word after a space from one within a word. Each word stands alone here, so it
        # brings its space along, as with add_prefix_space; all other tokenizers drop it.
        words = [[f" {word}" for word in row] for row in rows["tokens"]]
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=self.max_length)
        starts = [_first_tokens(encoded.word_ids(number)) for number in range(len(words))]
        places = list(range(first, first + len(words)))
        columns = dict(encoded) | {"_row": places, "_words": starts}
        if training:
            numbers = {label: number for number, label in enumerate(self.labels)}
            columns["labels"] = [
                [IGNORED if word < 0 else numbers[tags[word]] for word in row]
                for row, tags in zip(starts, rows["tags"], strict=True)
            ]
        return columns

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """Pads labels with -100."""
        return DataCollatorForTokenClassification(pad_right(tokenizer), label_pad_token_id=IGNORED)

    # --- judging ---------------------------------------------------------------------------------

    def answers(
        self, outputs: Sequence[Outputs], features: datasets.Dataset, rows: datasets.Dataset
    ) -> list[list[str]]:
        """A list of tags a row, one a word."""
        answers = [[OUTSIDE] * len(words) for words in rows["tokens"]]
        for (logits,), row, starts in zip(outputs, features["_row"], features["_words"], strict=True):
            for label, word in zip(logits.argmax(axis=-1), starts, strict=True):
                if word >= 0:
                    answers[row][word] = self.labels[label]
        return answers

    def metrics(self, answers: Sequence[list[str]], rows: datasets.Dataset) -> dict[str, float]:
        """f1, precision and recall of entities over all rows, as conlleval counts them, and accuracy of words.

        An entity counts when its type and both ends are right. An entity that opens with I- is read like one with B-.

        Source: Tjong Kim Sang and De Meulder (2003), by seqeval's default mode.
        """
        gold, found = list(rows["tags"]), list(answers)
        entities = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        values = {name: float(score(gold, found, zero_division=0)) for name, score in entities.items()}
        return values | {"accuracy": float(accuracy_score(gold, found))}

    @property
    def scored(self) -> tuple[str, ...]:
        """F1 of entities."""
        return ("f1",)

    def correct(self, answer: list[str], row: Mapping[str, Any]) -> bool:
        """Whether the entities are those of the row."""
        return self.agree(answer, row["tags"])

    def agree(self, one: list[str], other: list[str]) -> bool:
        """Whether both have the same entities."""
        return bool(get_entities(one) == get_entities(other))

    def show(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The words, and the entities."""
        return {"text": " ".join(row["tokens"]), "gold": self.show_answer(row["tags"], row)}

    def show_answer(self, answer: list[str], row: Mapping[str, Any]) -> str:
        """The entities with their words: "location New York, person Ann"."""
        entities = get_entities(answer)
        shown = [f"{kind} {' '.join(row['tokens'][first : last + 1])}" for kind, first, last in entities]
        return ", ".join(shown) or "(no entity)"


def _first_tokens(word_ids: Sequence[int | None]) -> list[int]:
    """The word that begins at each token; -1 at special tokens and at the further tokens of a word."""
    before = [None, *word_ids]
    return [-1 if word is None or word == before[n] else word for n, word in enumerate(word_ids)]
