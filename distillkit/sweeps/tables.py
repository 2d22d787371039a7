"""The tables of a sweep's page, as texts; a dash stands where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from distillkit.evaluation.summary import score_text
from distillkit.progress import duration
from distillkit.report.markup import NOTHING, Table, cell, escaped
from distillkit.report.page import MODEL_ROWS
from distillkit.sweeps.differences import told
from distillkit.sweeps.readings import SIZES, TASK

TRIALS = 10
"""Most trials of a search that the page lists; sweep_results.json has all."""
_REASON = 40
"""Most characters of a reason in a table; the page has it in full below."""


# --- words for figures and values --------------------------------------------------------------------------------


def figure_label(figure: str) -> str:
    """Of a column: "held-out MLM loss, nats"; of a task its name."""
    return figure.removeprefix(TASK) if figure.startswith(TASK) else MODEL_ROWS[figure][0]


def figure_name(figure: str) -> str:
    """In a sentence: the label without its unit."""
    return figure_label(figure).partition(",")[0]


def is_share(figure: str) -> bool:
    """Whether a figure lies in 0..1 and is shown times 100."""
    return figure.startswith(TASK) or MODEL_ROWS[figure][1].endswith("%}")


def figure_text(figure: str, mean: float, sd: float | None = None) -> str:
    """A figure, and its standard deviation where there is one: "4.123 ± 0.010", "61.3 ± 0.4"."""
    if is_share(figure):
        return score_text(mean, sd)
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def difference_text(figure: str, difference: Mapping[str, Any]) -> str:
    """A difference with its interval: "+0.120 [0.050, 0.190]", "+0.120 [-]" where one seed tells no interval."""
    if difference["mean"] is None:
        return NOTHING
    scale, form = (100, ".1f") if is_share(figure) else (1, ".3f")
    mean, low, high = (None if (x := difference[key]) is None else scale * x for key in ("mean", "low", "high"))
    bounds = NOTHING if low is None else f"{low:{form}}, {high:{form}}"
    return f"{mean:+{form}} [{bounds}]"


def value_text(value: Any) -> str:
    """A varied value as one types it: numbers short, null, true."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shortened(text: str, most: int = _REASON) -> str:
    """A text on one line, cut where it is long."""
    words = " ".join(text.split())
    return words if len(words) <= most else f"{words[: most - 1].rstrip()}…"


def arm_label(facts: Mapping[str, Any], name: str) -> str:
    """What the page calls the arms of a name: of a search, whose names hold all that was drawn, as its first run."""
    return run_label(facts, next(arm for arm in facts["arms"] if arm["name"] == name))


def run_label(facts: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """What the page calls a run: the name of its arm, in a search "trial 3"."""
    return f"trial {arm['number']}" if facts["search"] else str(arm["name"])


# --- arms --------------------------------------------------------------------------------------------------------


def arm_table(facts: Mapping[str, Any]) -> Table:
    """An arm a row: runs done, figures over its seeds (the best bold), and why runs are missing."""
    figures, groups = facts["metrics"], facts["groups"]
    missing = any(group["reasons"] for group in groups.values())
    head = ["done", *map(figure_label, figures), *(["why not all"] if missing else [])]
    rows = []
    for name, group in groups.items():
        cells = [_figure_cell(facts, name, figure) for figure in figures]
        why = (
            [shortened("; ".join(reason.removeprefix("error: ") for reason in group["reasons"])) or NOTHING]
            if missing
            else []
        )
        rows.append((arm_label(facts, name), [_done(group), *cells, *why]))
    return Table(head, rows)


def _done(group: Mapping[str, Any]) -> str:
    """Such as "3 of 3", "1 of 3: 1 failed, 1 queued"."""
    others = ", ".join(f"{number} {status}" for status, number in group["statuses"].items() if status != "done")
    return f"{group['done']} of {group['arms']}" + (f": {others}" if others else "")


def _figure_cell(facts: Mapping[str, Any], name: str, figure: str) -> str:
    entry = facts["groups"][name]["figures"].get(figure)
    if entry is None:
        return NOTHING
    text = _spread_text(figure, entry)
    return Markup(f"**{escaped(text)}**") if name in facts["best"].get(figure, ()) else text


def _spread_text(figure: str, entry: Mapping[str, Any]) -> str:
    return figure_text(figure, entry["mean"], entry["sd"])


def difference_table(facts: Mapping[str, Any]) -> Table | None:
    """An arm a row: differences from the baseline, and which of them the seeds tell; None without any."""
    rows = []
    for name, group in facts["groups"].items():
        found = {figure: entry["difference"] for figure, entry in group["figures"].items()}
        cells = [_difference_cell(figure, found.get(figure), less) for figure, less in facts["metrics"].items()]
        if set(cells) - {NOTHING}:
            rows.append((name, cells))
    return Table(list(map(figure_label, facts["metrics"])), rows) if rows else None


def _difference_cell(figure: str, difference: Mapping[str, Any] | None, less: bool) -> str:
    if difference is None:
        return NOTHING
    verdict = f" {'better' if (difference['mean'] < 0) == less else 'worse'}" if told(difference) else ""
    return difference_text(figure, difference) + verdict


def size_table(facts: Mapping[str, Any]) -> Table | None:
    """An arm a row: how large its student is, and the time of its steps; None where no two students differ in size."""
    known = {name: group["sizes"] for name, group in facts["groups"].items() if group["sizes"]}
    if len({tuple(sizes.get(key) for key in SIZES) for sizes in known.values()}) < 2:
        return None
    shown = {key: MODEL_ROWS[key] for key in SIZES} | {"step_seconds": ("seconds a training step, median", "{:.3f}")}
    rows = [
        (arm_label(facts, name), [cell(sizes.get(key), form.format) for key, (_, form) in shown.items()])
        for name, sizes in known.items()
    ]
    return Table([label for label, _ in shown.values()], rows)


def run_table(facts: Mapping[str, Any]) -> Table:
    """A run a row: how it is getting on."""
    head = ["seed", "status", "step", "time", *map(figure_label, facts["metrics"])]
    rows = [
        (
            run_label(facts, arm),
            [
                str(arm["seed"]), arm["status"], _steps(arm), duration(arm["seconds"]) if arm["seconds"] else NOTHING,
                *(cell(arm["figures"].get(figure), partial(figure_text, figure)) for figure in facts["metrics"]),
            ],
        )
        for arm in facts["arms"]
    ]  # fmt: skip
    return Table(head, rows)


def _steps(arm: Mapping[str, Any]) -> str:
    if arm["step"] is None:
        return NOTHING
    return f"{arm['step']:,}" + (f" of {arm['steps']:,}" if arm["steps"] and arm["steps"] != arm["step"] else "")


# --- varied values -----------------------------------------------------------------------------------------------


def effect_tables(facts: Mapping[str, Any]) -> dict[str, Table]:
    """Key -> a row a value: each figure, and how much the first one differs from that at the first value."""
    return {key: _effect_table(found) for key, found in facts["effects"].items()}


def _effect_table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    first, entries = next(iter(found.items()))
    by_value = {figure: {entry["value"]: entry for entry in own} for figure, own in found.items()}
    rows = []
    for number, entry in enumerate(entries):
        others = [(figure, own.get(entry["value"])) for figure, own in by_value.items()]
        cells = [cell(own, partial(_spread_text, figure)) for figure, own in others]
        moved = difference_text(first, entry["difference"]) if number else NOTHING
        rows.append((value_text(entry["value"]), [str(entry["arms"]), *cells, moved]))
    return Table(["arms", *map(figure_label, found), f"difference, {figure_name(first)}"], rows)


def interaction_table(pair: Mapping[str, Any], figure: str) -> Table:
    """The first key's values down, the second's across."""
    head = [f"{pair['keys'][1]}={value_text(value)}" for value in pair["columns"]]
    rows = [
        (
            f"{pair['keys'][0]}={value_text(row)}",
            [cell(mean, partial(figure_text, figure)) for mean in means],
        )
        for row, means in zip(pair["rows"], pair["means"], strict=True)
    ]
    return Table(head, rows)


# --- searches and the paper --------------------------------------------------------------------------------------


def trial_table(search: Mapping[str, Any]) -> Table:
    """The trials of a search that are done, best first; then the others as far as there is room."""
    trials = sorted(
        search["trials"],
        key=lambda trial: (trial["status"] != "done", trial["value"] is None, trial["value"], trial["number"]),
    )
    head = [search["metric"], "status", *search["parameters"]]
    rows = [
        (
            str(trial["number"]),
            [cell(trial["value"], "{:.4f}".format), trial["status"],
             *(value_text(trial["values"][key]) if key in trial["values"] else NOTHING
               for key in search["parameters"])],
        )
        for trial in trials[:TRIALS]
    ]  # fmt: skip
    return Table(head, rows)


def paper_table(facts: Mapping[str, Any], figure: str) -> Table:
    """Pairs of the paper's arms, those furthest apart there first."""
    pairs = sorted(facts["paper"]["figures"][figure]["pairs"], key=lambda pair: -pair["points"])
    rows = [
        (
            f"{pair['better']} over {pair['worse']}",
            [f"{pair['points']:.2f}", difference_text(figure, pair["difference"]), pair["verdict"]],
        )
        for pair in pairs
    ]
    return Table(["paper, GLUE points", f"ours, {figure_label(figure)}", "verdict"], rows)
