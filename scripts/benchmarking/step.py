"""The measurement of `benchmark.py step`: one shape, its cases, and what is kept of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from distillkit.demo_teacher import demo_tokenizer
from distillkit.types import Batch
from scripts.benchmarking import agreement, batches, costs
from scripts.benchmarking.contenders import Contender, Recipe
from scripts.benchmarking.recipes import OURS, REFERENCE
from scripts.benchmarking.roof import Roof, product_speed
from scripts.benchmarking.rounds import interleave, summaries
from scripts.benchmarking.shapes import Models, Shape, useful_flops

BATCHES = 8
_VOCABULARY = 30_522


class Plan(NamedTuple):
    """What to measure: contenders, kinds of batches, dropouts, seconds of all rounds together, with memory or not."""

    recipes: Mapping[str, Recipe]
    kinds: Sequence[str]
    dropouts: Sequence[float]
    seconds: float
    memory: bool


def measure(shape: Shape, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Losses, memory and rounds of every case.

    Args:
        shape: of the models.
        plan: the cases.
        say: told what is being done.

    Returns:
        Plain values: losses (`agreement.losses`), memory_mb by contender, roof (FLOP/s by precision), plain_fp32
        (FLOP/s of torch's own product), and cases.
    """
    say("reading the text")
    tokenizer = demo_tokenizer()
    text = {kind: batches.real_batches(kind, shape, tokenizer, BATCHES) for kind in plan.kinds}
    say("comparing the losses")
    losses = agreement.losses(plan.recipes, shape.models(0.0), text[plan.kinds[0]][0])
    memory = {}
    if plan.memory:
        say("measuring memory, a process a contender")
        points = costs.memory_points(shape.name, plan.recipes, shape.rows, shape.length, _VOCABULARY)
        memory = {point["contender"]: point["peak_memory_mb"] for point in costs.measure(points, steps=1)}
    roof, cases = Roof(), []
    seconds = plan.seconds / (len(plan.dropouts) * len(plan.kinds))
    for dropout in plan.dropouts:
        models = shape.models(dropout)
        built = {name: recipe.build(_own(name, models)) for name, recipe in plan.recipes.items()}
        for kind, chosen in text.items():
            say(f"rounds: {kind}, dropout {dropout:g}")
            found = _case(models, plan.recipes, built, chosen, roof, seconds)
            cases.append({"batches": kind, "dropout": dropout, "fill": batches.fill(chosen)} | found)
        del built
    for case in cases:
        for row in case["contenders"].values():
            row["of_roof"] = {kind: row["flops_per_second"] / best for kind, best in roof.best.items()}
    plain = product_speed(F.linear, torch.float32)
    return {"losses": losses, "memory_mb": memory, "roof": roof.best, "plain_fp32": plain, "cases": cases}


def _own(name: str, models: Models) -> Models:
    """A student of its own; ours gets its own teacher too, which it may convert."""
    teacher = copy.deepcopy(models.teacher) if name.startswith(OURS) else models.teacher
    return Models(teacher, copy.deepcopy(models.student))


def _case(
    models: Models,
    recipes: Mapping[str, Recipe],
    built: Mapping[str, Contender],
    chosen: Sequence[Batch],
    roof: Roof,
    seconds: float,
) -> dict[str, Any]:
    """The rounds over one kind of batches, and what they took."""
    began = time.perf_counter()
    steps = {name: contender.step for name, contender in built.items()}
    times = interleave(steps, chosen, seconds=seconds, between=roof.probe)
    configs = (models.teacher.config, models.student.config)
    flops = {
        name: [
            useful_flops(
                *configs, batches.lengths(b), b.totals.attended if r.positions == "all" else b.totals.predicted
            )
            for b in chosen
        ]
        for name, r in recipes.items()
    }
    rounds = len(times[REFERENCE])
    taken = time.perf_counter() - began
    return {"rounds": rounds, "took": taken, "contenders": summaries(times, chosen, flops, REFERENCE)}
