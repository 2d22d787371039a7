"""Where a model and the reference answer differently, and who was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.comparison.models import Contender
from distillkit.comparison.tasks.base import TRAIN, Task
from distillkit.comparison.units import Unit

EXAMPLES = 3
"""Of each kind: the reference was right, the model was right."""


def disagreements(
    reference: str | None,
    models: Sequence[Contender],
    tasks: Mapping[str, Task],
    results: Mapping[Unit, Any],
    place: Path,
) -> dict[str, dict[str, Any]]:
    """Task -> model -> rows, differ, reference_right, model_right and examples, on the first seed both have.

    Args:
        reference: whose answers the others' are compared with; None: nothing to say.
        models, tasks: compared.
        results: of the units that are done.
        place: the comparison's folder.
    """
    found: dict[str, dict[str, Any]] = {task: {} for task in tasks}
    done: dict[tuple[str, str | None, int], Unit] = {(unit.task, unit.model, unit.seed): unit for unit in results}
    for name, task in tasks.items():
        for model in models:
            pair = next(
                (
                    (done[name, reference, unit.seed], unit)
                    for unit in results
                    if (unit.task, unit.model) == (name, model.name) and (name, reference, unit.seed) in done
                ),
                None,
            )
            if pair is not None and model.name != reference:
                found[name][model.name] = _compare(task, pair[0].answers(place), pair[1].answers(place))
    return {task: rows for task, rows in found.items() if rows}


def _compare(task: Task, reference: Sequence[Any], model: Sequence[Any]) -> dict[str, Any]:
    rows = next(rows for part, rows in task.parts.items() if part != TRAIN)
    differing = [
        (row, one, other) for row, one, other in zip(rows, reference, model, strict=True) if not task.agree(one, other)
    ]
    right = [(task.correct(one, row), task.correct(other, row)) for row, one, other in differing]
    examples = []
    for wanted in ((True, False), (False, True)):
        chosen = [entry for entry, verdict in zip(differing, right, strict=True) if verdict == wanted][:EXAMPLES]
        examples += [
            task.show(row) | {"reference": task.show_answer(one, row), "model": task.show_answer(other, row)}
            for row, one, other in chosen
        ]
    return {
        "rows": len(rows),
        "differ": len(differing) / len(rows),
        "reference_right": right.count((True, False)),
        "model_right": right.count((False, True)),
        "examples": examples,
    }
