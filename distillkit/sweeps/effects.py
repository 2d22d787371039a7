"""What each varied value does, alone and together with another, over arms that differ in nothing else."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillkit.sweeps.differences import paired, spread

Values = Mapping[str, Any]
Figures = Mapping[str, Mapping[str, float]]
"""Arm's name -> seed -> figure."""
Cell = tuple[Any, ...]
"""Values of some keys."""


def varied(values: Mapping[str, Values]) -> dict[str, list[Any]]:
    """The keys that have at least two values, with these in their order.

    Args:
        values: arm's name -> key -> effective value: numbers, words or None.
    """
    keys = list(dict.fromkeys(key for own in values.values() for key in own))
    found = {key: _ordered([own[key] for own in values.values() if key in own]) for key in keys}
    return {key: entries for key, entries in found.items() if len(entries) > 1}


def main_effect(key: str, values: Mapping[str, Values], figures: Figures) -> list[dict[str, Any]]:
    """A figure at each value of a key, the others held equal.

    Args:
        key: varied.
        values: arm's name -> the varied keys' values.
        figures: of the arms that have some.

    Returns:
        Per value: value, mean, sd, seeds (as `spread`, over means of the arms at that value), arms (how many) and
        difference (`paired`, from the first value). Empty where no two arms differ in this key alone.
    """
    cells = _cells([key], values, figures)
    return [
        {"value": value, **spread(own), "arms": arms, "difference": paired(own, next(iter(cells.values()))[0])}
        for (value,), (own, arms) in cells.items()
    ]


def interaction(keys: tuple[str, str], values: Mapping[str, Values], figures: Figures) -> dict[str, Any] | None:
    """A figure at each pair of values of two keys, the others held equal.

    Args:
        keys: varied.
        values, figures: as for `main_effect`.

    Returns:
        keys, rows and columns (the values), means ([rows][columns], None where no arm is), departure: of two by two
        values how much more the first key does at the second's last value than at its first (`paired` with zero, over
        seeds), else None. None where no square of four arms tells anything: two values of each, the rest equal.
    """
    cells = _cells(list(keys), values, figures)
    rows, columns = (_ordered([cell[place] for cell in cells]) for place in (0, 1))
    if not _has_square(cells):
        return None
    means = [[_mean(cells, (row, column)) for column in columns] for row in rows]
    departure = None
    if len(rows) == len(columns) == 2:
        corner = {(i, j): cells[rows[i], columns[j]][0] for i in (0, 1) for j in (0, 1)}
        crossed = {s: corner[1, 1][s] - corner[0, 1][s] - corner[1, 0][s] + corner[0, 0][s] for s in corner[0, 0]}
        departure = paired(crossed, dict.fromkeys(crossed, 0.0))
    return {"keys": list(keys), "rows": rows, "columns": columns, "means": means, "departure": departure}


def _cells(
    keys: Sequence[str], values: Mapping[str, Values], figures: Figures
) -> dict[Cell, tuple[dict[str, float], int]]:
    """Values of the keys -> seed -> mean over arms, and their number; in the values' order.

    Of the contexts (equal values of all other keys) those count that have the most cells, all the same ones: so the
    means of two cells are over arms that differ in these keys alone. Of seeds those count that all these arms have.
    """
    contexts: dict[Cell, dict[Cell, Mapping[str, float]]] = {}
    for name, own in figures.items():
        settled = values[name]
        if all(key in settled for key in keys):
            rest = tuple(item for item in sorted(settled.items()) if item[0] not in keys)
            contexts.setdefault(rest, {})[tuple(settled[key] for key in keys)] = own
    shapes = [frozenset(context) for context in contexts.values()]
    largest = max(shapes, key=lambda shape: (len(shape), shapes.count(shape)), default=frozenset[Cell]())
    used = [context for context in contexts.values() if frozenset(context) == largest]
    shared = [own for context in used for own in context.values()]
    seeds = [seed for seed in (shared[0] if shared else ()) if all(seed in own for own in shared)]
    if len(largest) < 2 or not seeds:
        return {}
    order = [_ordered([cell[place] for cell in used[0]]) for place in range(len(keys))]
    return {
        cell: ({seed: statistics.fmean(context[cell][seed] for context in used) for seed in seeds}, len(used))
        for cell in itertools.product(*order) if cell in largest
    }  # fmt: skip


def _mean(cells: Mapping[Cell, tuple[dict[str, float], int]], cell: Cell) -> float | None:
    return statistics.fmean(cells[cell][0].values()) if cell in cells else None


def _has_square(cells: Iterable[Cell]) -> bool:
    """Whether two values of one key both occur with two values of the other."""
    columns: dict[Any, set[Any]] = {}
    for row, column in cells:
        columns.setdefault(row, set()).add(column)
    return any(len(one & other) > 1 for one, other in itertools.combinations(columns.values(), 2))


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each value once: numbers by size, anything else in the order it came in."""
    unique = list(dict.fromkeys(values))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in unique)
    return sorted(unique) if numbers else unique
