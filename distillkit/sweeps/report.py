"""The page of a sweep: `distillkit report SWEEP_DIR`, at any time, also while the sweep runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.progress import activity
from distillkit.report.drawing import Drawing, by_section
from distillkit.report.markup import print_rows, render
from distillkit.report.writing import check_writable, write_page
from distillkit.sweeps import summary, tables
from distillkit.sweeps.figures import SECTIONS, draw
from distillkit.sweeps.results import MAIN, gather

RESULTS, PAGE = "sweep_results.json", "sweep_report"


def write_sweep_report(folder: str | Path, output: str | Path | None = None) -> dict[str, Any]:
    """Writes sweep_results.json, sweep_report.md, sweep_report.html and figures/.

    Args:
        folder: of the sweep.
        output: the folder to write into; by default the sweep's.

    Returns:
        As `write_page`, of the facts of `results.gather`.

    Raises:
        FileNotFoundError: no sweep was begun there.
        StorageError: the folder cannot be written.
    """
    place = Path(folder if output is None else output).expanduser()
    check_writable(place)
    facts = gather(Path(folder))
    with activity("drawing"):
        drawings = draw(facts)
    return write_page(place, RESULTS, facts, as_markdown(facts, drawings), drawings, page=PAGE)


def as_markdown(facts: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """The page as Markdown, with links to the light figures.

    Args:
        facts: of `results.gather`, or as read from sweep_results.json.
        drawings: of `figures.draw`.
    """
    paper_figure = next(iter(facts["paper"]["figures"]), None) if facts["paper"] else None
    return render(
        "distillkit.sweeps", "sweep.md.jinja", facts=facts, drawings=by_section(drawings, SECTIONS),
        summary=" ".join(summary.summary(facts)), varied=_varied(facts), savings=summary.savings(facts),
        time=summary.time_text(facts), arms=tables.arm_table(facts), sizes=tables.size_table(facts),
        differences=tables.difference_table(facts),
        effects=tables.effect_tables(facts), interactions=[_interaction(pair) for pair in facts["interactions"]],
        trials=tables.trial_table(facts["search"]) if facts["search"] else None, runs=tables.run_table(facts),
        paper_lines=summary.beside_paper(facts), paper_figure=paper_figure,
        paper=paper_figure and tables.paper_table(facts, paper_figure), main=tables.figure_label(MAIN),
        commands=_commands(facts), label=tables.arm_label,
    )  # fmt: skip


def print_sweep(facts: Mapping[str, Any]) -> None:
    """Prints the arms and the summary to stdout."""
    table = tables.arm_table(facts)
    rows = [(name, [text.strip("*") for text in cells]) for name, cells in table.rows]
    print_rows(rows, table.head, summary.summary(facts), label="arm")


def _varied(facts: Mapping[str, Any]) -> str:
    """What was varied, in a line."""
    if facts["vary"]:
        return "; ".join(f"{key}: {values}" for key, values in facts["vary"].items())
    return ", ".join(facts["varied"] or facts["groups"]) or "nothing yet"


def _interaction(pair: Mapping[str, Any]) -> dict[str, Any]:
    departure = pair["departure"] and tables.difference_text(MAIN, pair["departure"])
    return {"keys": pair["keys"], "table": tables.interaction_table(pair, MAIN), "departure": departure}


def _commands(facts: Mapping[str, Any]) -> list[str]:
    """The command of each run, under its name."""
    return [line for arm in facts["arms"] for line in (f"# {arm['name']}, seed {arm['seed']}", arm["command"])]
