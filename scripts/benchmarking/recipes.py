"""Everyone who takes part, by name."""

from __future__ import annotations

from functools import partial

from scripts.benchmarking.contenders import Original, Recipe, ours
from scripts.benchmarking.peers import CROSS_ENTROPY, TextBrewer, TrainerSubclass, missing

REFERENCE = "original_all"
OURS = "ours_"
INSTALL = "make benchmark installs them"
RECIPES = {
    f"{OURS}{precision}_{positions}": Recipe(
        f"distillkit {precision}, {positions}", precision, positions,
        partial(ours, precision=precision, positions=positions),
    )
    for precision in ("bf16", "fp32") for positions in ("predicted", "all")
} | {
    "trainer_bf16": Recipe(
        "Trainer subclass bf16", "bf16", "all", partial(TrainerSubclass, precision="bf16"),
        missing=missing("accelerate"),
    ),
    "trainer_fp32": Recipe(
        "Trainer subclass fp32", "fp32", "all", partial(TrainerSubclass, precision="fp32"),
        missing=missing("accelerate"),
    ),
    "textbrewer": Recipe(
        "TextBrewer fp32", "fp32", "all", TextBrewer, CROSS_ENTROPY,
        missing=missing("textbrewer", "tqdm", "tensorboard"),
    ),
    "original_predicted": Recipe(
        "original fp32, predicted", "fp32", "predicted", partial(Original, positions="predicted")
    ),
    REFERENCE: Recipe("original fp32, all", "fp32", "all", partial(Original, positions="all")),
}  # fmt: skip


def present(names: list[str] | None) -> dict[str, Recipe]:
    """Those of the names (None: of all) that can be imported; the reference always."""
    chosen = RECIPES if names is None else {n: RECIPES[n] for n in RECIPES if n in names or n == REFERENCE}
    return {name: recipe for name, recipe in chosen.items() if not recipe.missing}


def left_out(names: list[str] | None) -> list[str]:
    """A line for each that cannot be imported: what it lacks and what to do."""
    chosen = RECIPES if names is None else {n: RECIPES[n] for n in RECIPES if n in names}
    return [f"{r.title} left out: {', '.join(r.missing)} missing; {INSTALL}" for r in chosen.values() if r.missing]
