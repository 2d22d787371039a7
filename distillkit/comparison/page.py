"""The page of a comparison, from its results alone."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.comparison import tables
from distillkit.comparison.figures import SECTIONS, draw, floor
from distillkit.comparison.ranking import common_tasks
from distillkit.comparison.words import averaged, listed, summary
from distillkit.progress import activity
from distillkit.redaction import shown_words
from distillkit.report.drawing import Drawing, by_section
from distillkit.report.markup import print_rows, render
from distillkit.report.writing import check_writable, write_page

RESULTS = "results.json"
_TEXT = 200
"""Most characters of an example's text."""


def write_comparison(facts: Mapping[str, Any], folder: str | Path) -> dict[str, str]:
    """Writes results.json, report.md, report.html and figures/ of a comparison.

    Args:
        facts: of results.json, plain values; words of the command that hold a secret are left out.
        folder: to write into, made if need be.

    Returns:
        The paths written: facts, markdown, html.

    Raises:
        StorageError: the folder cannot be written.
    """
    place = Path(folder)
    check_writable(place)
    shown = {**facts, "command": shown_words(facts["command"], paths=True)}
    with activity("drawing"):
        drawings = draw(shown)
    return write_page(place, RESULTS, shown, as_markdown(shown, drawings), drawings)["files"]


def as_markdown(facts: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """The page as Markdown, with links to the light figures.

    Args:
        facts: of results.json.
        drawings: of `figures.draw`.
    """
    return render(
        "distillkit.comparison", "comparison.md.jinja", facts=facts, drawings=by_section(drawings, SECTIONS),
        summary=" ".join(summary(facts)), scores=tables.score_table(facts), glue=tables.glue_table(facts),
        metrics=tables.metric_table(facts), costs=tables.efficiency_table(facts),
        differences=tables.disagreement_tables(facts), tasks=tables.task_table(facts),
        recipe=tables.recipe_table(facts), unshared=_unshared(facts),
        command=shlex.join(["distillkit", *facts["command"]]), listed=listed,
        shortened=_shortened, averaged=averaged(facts) if common_tasks(facts) else "", floor=floor(facts),
    )  # fmt: skip


def print_comparison(facts: Mapping[str, Any]) -> None:
    """Prints the scores, the failures and the notes to stdout."""
    table = tables.short_table(facts)
    failed = [
        f"{unit['model']}, {unit['task']}, seed {unit['seed']} failed: {unit['error']}" for unit in facts["failed"]
    ]
    print_rows(table.rows, table.head, [*facts["notes"], *failed], label="model")


def _unshared(facts: Mapping[str, Any]) -> list[str]:
    """The models that share weights and are stored as if they did not."""
    return [
        name
        for name, model in facts["models"].items()
        if (model["nominal_parameters"] or 0) > (model["unique_parameters"] or 0) and not model["shared_on_disk"]
    ]


def _shortened(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _TEXT else f"{words[: _TEXT - 1].rstrip()}…"
