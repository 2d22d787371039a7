"""SIGKILL from outside at chosen steps: the resumed run ends with the uninterrupted run's weights, bit for bit."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.faults.fixtures import Reference, Say, Start
from tests.faults.harness import MAX_STEPS, ROWS_PER_STEP, CliProcess, Inputs, Recipe, Run, assert_identical

pytestmark = pytest.mark.fault


@dataclass(frozen=True)
class Case:
    """A run and where it is killed; several kills hit the run and then its resumed self."""

    recipe: Recipe
    workers: int
    kills: tuple[str, ...]

    def __str__(self) -> str:
        recipe, last = self.recipe, "+".join((*self.recipe.more, *self.kills))
        return f"{recipe.student}-w{self.workers}-a{recipe.accumulate}-{recipe.packing}-{last}"

    @property
    def every(self) -> int:
        """Steps between checkpoints."""
        return 3 if set(self.kills) == {"random"} else 1


PAPER = ("student.share=ffn", "loss.sop=1", "masking=ngram", "masking.smoothing=0.7", "optimizer=lamb")
CASES = (
    Case(Recipe("distilbert", 1, "full"), 0, ("last",)),
    Case(Recipe("albert", 3, "none"), 0, ("before_last",)),
    Case(Recipe("albert", 3, "full"), 2, ("last",)),
)
CI_CASES = (
    Case(Recipe("distilbert", 3, "none"), 2, ("random", "random")),
    Case(Recipe("albert", 1, "none"), 2, ("after_last",)),
    Case(Recipe("distilbert", 1, "full"), 2, ("random", "random", "random")),
    Case(Recipe("albert", 3, "full"), 0, ("random",)),
    Case(Recipe("albert", 3, "sentences", PAPER), 2, ("random", "last")),
)
"""With CASES every pair of (student, workers, accumulation, packing), and what ALBERT's paper adds."""
ALL_CASES = tuple(
    Case(Recipe(student, accumulate, packing), workers, (kill,))
    for student, workers, accumulate, packing, kill in itertools.product(
        ("distilbert", "albert"), (0, 2), (1, 3), ("full", "none"), ("random", "before_last", "last", "after_last")
    )
)


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=str(case)) for case in CASES),
        *(pytest.param(case, id=str(case), marks=[pytest.mark.slow, pytest.mark.ci]) for case in CI_CASES),
        *(pytest.param(c, id=str(c), marks=pytest.mark.slow) for c in ALL_CASES if c not in CASES + CI_CASES),
    ],
)
def test_resume_ends_identical_when_killed(
    case: Case, inputs: Inputs, start: Start, say: Say, tmp_path: Path, reference: Reference
) -> None:
    seed = int(os.environ.get("FAULT_SEED") or secrets.randbits(32))
    finished = reference(case.recipe)
    run, process, newest = interrupted(case, inputs, start, say, tmp_path, seed)
    process.succeed()
    assert run.starts()[-1] == newest
    assert len(run.starts()) == 1 + len(case.kills)
    assert_identical(run, finished())


def interrupted(
    case: Case, inputs: Inputs, start: Start, say: Say, folder: Path, seed: int
) -> tuple[Run, CliProcess, int]:
    """The case's run after its last kill, the process that resumes it, and the step of its newest checkpoint then."""
    rng = random.Random(seed)
    for attempt in range(3):
        run = Run(folder / f"run{attempt}")
        process = start(*case.recipe.words(inputs, every=case.every, workers=case.workers), f"run.dir={run.path}")
        steps = sorted(rng.sample(range(1, MAX_STEPS - 3), len(case.kills)))
        for kill, step in zip(case.kills, steps, strict=True):
            began = time.monotonic()
            on_time = KILLS[kill](process, run, step, rng.uniform(0, 0.05))
            newest = max(run.checkpoints(), default=0)
            seconds = time.monotonic() - began
            say(
                f"killed ({kill}) {seconds:.2f} s after its start, at step {process.step} with checkpoint {newest},"
                f" FAULT_SEED={seed}{'' if on_time else ': too late, again'}"
            )
            assert not run.events("finish"), "the run had finished: nothing was interrupted"
            if not on_time:
                break
            process = start("resume", str(run.path))
        else:
            return run, process, newest
    pytest.fail("the machine was too busy to kill between two steps")


def kill_in_step(process: CliProcess, run: Run, step: int, delay: float) -> bool:
    """Kills `delay` seconds after optimizer step `step`."""
    process.wait_until(lambda: process.step >= step)
    time.sleep(delay)
    process.kill()
    return True


def kill_at_boundary(process: CliProcess, run: Run, step: int, delay: float, *, offset: int) -> bool:
    """Kills while the newest checkpoint is `offset` optimizer steps from the first epoch's last batch, or fails to."""
    process.wait_until(lambda: run.rows() > 0)
    steps_per_epoch = run.rows() // ROWS_PER_STEP
    assert 5 <= steps_per_epoch <= 8, "the inputs make too short or too long an epoch"
    process.wait_until(run.checkpoint(steps_per_epoch + offset).exists)
    process.kill()
    return run.checkpoints()[-1] == steps_per_epoch + offset


KILLS = {
    "random": kill_in_step,
    "before_last": partial(kill_at_boundary, offset=-1),
    "last": partial(kill_at_boundary, offset=0),
    "after_last": partial(kill_at_boundary, offset=1),
}
"""A checkpoint one optimizer step before an epoch's last batch, at it, and one after it; or anywhere."""
