"""Whether the contenders compute the same loss: on one batch, from the same weights, without dropout."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from distillkit.types import Batch
from scripts.benchmarking.contenders import Original, Recipe
from scripts.benchmarking.peers import KD_WEIGHT, entropy
from scripts.benchmarking.shapes import Models

TOLERANCE = 1e-5


def losses(recipes: Mapping[str, Recipe], models: Models, batch: Batch) -> dict[str, dict[str, Any]]:
    """Every contender's loss beside the original's at the same positions.

    Args:
        recipes: name -> recipe.
        models: without dropout; left as they are.
        batch: a common one.

    Returns:
        name -> loss; expected, the original's by the contender's own definition; difference, relative; definition;
        agrees: whether the difference is at most TOLERANCE, None where the precision is not fp32.
    """
    found, expected = {}, {}
    for positions in {recipe.positions for recipe in recipes.values()}:
        expected[positions] = Original(_copied(models), positions=positions).loss(batch).item()
    for name, recipe in recipes.items():
        loss = recipe.build(_copied(models)).loss(batch).item()
        own = expected[recipe.positions]
        if recipe.definition:
            own += KD_WEIGHT * entropy(models.teacher, batch)
        gap = abs(loss - own) / abs(own)
        found[name] = {
            "loss": loss, "expected": own, "difference": gap, "definition": recipe.definition or "the original's",
            "agrees": gap <= TOLERANCE if recipe.precision == "fp32" else None,
        }  # fmt: skip
    return found


def _copied(models: Models) -> Models:
    return Models(*(copy.deepcopy(model) for model in models))
