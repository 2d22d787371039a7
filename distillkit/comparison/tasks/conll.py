"""Tagged sentences: files of CoNLL columns and the two ways of writing entities in tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from distillkit.errors import DataError

OUTSIDE = "O"
TAG = re.compile(r"O|[BIES]-.+")
"""A tag as seqeval reads it; E and S end an entity and stand for one of a single word."""

_FEATURES = datasets.Features(
    {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.Value("string"))}
)


def read_conll(path: Path) -> datasets.Dataset:
    """Sentences of a file of columns: the word first, its tag last, a blank line after each sentence.

    Columns are cut at tabs where a line has one, else at spaces. Lines of -DOCSTART- are left out.

    Args:
        path: UTF-8, with or without a byte order mark, lines ending in LF or CRLF.

    Returns:
        Columns tokens and ner_tags, lists of text.

    Raises:
        DataError: a line has a word without a tag; file and line are named.
    """
    sentences = list(_sentences(path))
    columns = {"tokens": [words for words, _ in sentences], "ner_tags": [tags for _, tags in sentences]}
    return datasets.Dataset.from_dict(columns, features=_FEATURES)


def _sentences(path: Path) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            text = line.rstrip("\r\n")
            if text.strip() and not text.startswith("-DOCSTART-"):
                word, tag = _cells(text, path, number)
                words.append(word)
                tags.append(tag)
            elif words:
                yield words, tags
                words, tags = [], []
    if words:
        yield words, tags


def _cells(line: str, path: Path, number: int) -> tuple[str, str]:
    """Word and tag of a line; cut at spaces and tabs alone, as a word may be a no-break space or another odd one."""
    cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line.strip(" "))
    if len(cells) < 2 or not cells[-1]:
        raise DataError(
            f"line {number} has a word without a tag: {line.strip()[:40]!r}", key="task.*.files", value=path,
            allowed="the word first, its tag last, tabs or spaces between", fix="correct the line",
        )  # fmt: skip
    return cells[0], cells[-1]


def is_iob1(sentences: Sequence[Sequence[str]]) -> bool:
    """Whether tags are IOB1: entities open with I-, and B- only parts two neighbours of one type."""
    pairs = [pair for tags in sentences for pair in zip([OUTSIDE, *tags], tags, strict=False)]
    return any(_opens(before, tag) for before, tag in pairs) and all(
        before[2:] == tag[2:] for before, tag in pairs if tag.startswith("B-")
    )


def to_iob2(tags: Sequence[str]) -> list[str]:
    """IOB1 tags of a sentence as IOB2, in which every entity opens with B-: the same entities."""
    pairs = zip([OUTSIDE, *tags], tags, strict=False)
    return [f"B-{tag[2:]}" if _opens(before, tag) else tag for before, tag in pairs]


def _opens(before: str, tag: str) -> bool:
    """Whether an I- stands where an entity begins."""
    return tag.startswith("I-") and before[2:] != tag[2:]
