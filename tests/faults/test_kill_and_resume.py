"""SIGKILL from outside at chosen steps: the resumed run ends with the uninterrupted run's weights, bit for bit."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.conftest import Start
from tests.faults.harness import CliProcess, Inputs, Run, assert_identical

pytestmark = pytest.mark.fault

MAX_STEPS = 14
ROWS_PER_STEP = 12
BOUNDARIES = {"before_last": -1, "last": 0, "after_last": 1}
"""Kills with a checkpoint one optimizer step before an epoch's last batch, at it, and one after it."""
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Case:
    """A run and where it is killed; several kills hit the run and then its resumed self."""

    student: str
    workers: int
    accumulate: int
    packing: str
    kills: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.student}-w{self.workers}-a{self.accumulate}-{self.packing}-{'+'.join(self.kills)}"

    @property
    def key(self) -> Key:
        """What decides the final weights; neither workers nor kills do."""
        return self.student, self.accumulate, self.packing

    @property
    def every(self) -> int:
        """Steps between checkpoints."""
        return 3 if set(self.kills) == {"random"} else 1


CASES = (
    Case("distilbert", 0, 1, "full", ("last",)),
    Case("distilbert", 2, 3, "none", ("random", "random")),
    Case("albert", 0, 3, "none", ("before_last",)),
    Case("albert", 2, 1, "none", ("after_last",)),
    Case("albert", 2, 3, "full", ("last",)),
)
"""Every pair of (student, workers, accumulation, packing) is among them."""
CI_CASES = (Case("distilbert", 2, 1, "full", ("random", "random", "random")), Case("albert", 0, 3, "full", ("random",)))
ALL_CASES = tuple(
    Case(*settings, (kill,))
    for *settings, kill in itertools.product(
        ("distilbert", "albert"), (0, 2), (1, 3), ("full", "none"), ("random", *BOUNDARIES)
    )
)


def command(inputs: Inputs, key: Key, *, every: int, workers: int = 0) -> list[str]:
    """The words of a train command without its folder."""
    student, accumulate, packing = key
    return [
        "train", *inputs.words(), f"student={student}", "student.dropout=0.1", f"data.packing={packing}",
        f"data.num_workers={workers}", f"data.batch_size={ROWS_PER_STEP // accumulate}", "data.max_length=48",
        f"trainer.accumulate_grad_batches={accumulate}", f"trainer.max_steps={MAX_STEPS}",
        "trainer.log_every_n_steps=1", f"checkpoint.every_n_steps={every}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def reference(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Key], Callable[[], Run]]]:
    """reference(key): starts the uninterrupted run, once; what it returns waits for its end."""
    folder = tmp_path_factory.mktemp("references")
    started: dict[Key, tuple[CliProcess, Run]] = {}

    def begin(key: Key) -> Callable[[], Run]:
        if key not in started:
            run = Run(folder / "-".join(map(str, key)))
            words = command(inputs, key, every=5)
            started[key] = CliProcess(*words, f"run.dir={run.path}", inputs=inputs, log=folder / "logs" / run.path.name), run

        def wait() -> Run:
            process, run = started[key]
            process.succeed()
            return run

        return wait

    yield begin
    for process, _ in started.values():
        process.close()


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=str(case)) for case in CASES),
        *(pytest.param(case, id=str(case), marks=[pytest.mark.slow, pytest.mark.ci]) for case in CI_CASES),
        *(pytest.param(c, id=str(c), marks=pytest.mark.slow) for c in ALL_CASES if c not in CASES + CI_CASES),
    ],
)
def test_resume_ends_identical_when_killed(
    case: Case, inputs: Inputs, start: Start, say: Callable[[str], None], tmp_path: Path,
    reference: Callable[[Key], Callable[[], Run]],
) -> None:  # fmt: skip
    seed = int(os.environ.get("FAULT_SEED") or secrets.randbits(32))
    rng = random.Random(seed)
    finished = reference(case.key)
    run = Run(tmp_path / "run")
    words = [*command(inputs, case.key, every=case.every, workers=case.workers), f"run.dir={run.path}"]
    process = start(*words)
    steps = sorted(rng.sample(range(1, MAX_STEPS), len(case.kills)))
    for kill, step in zip(case.kills, steps, strict=True):
        began = time.monotonic()
        if kill == "random":
            kill_in_step(process, run, step, delay=rng.uniform(0, 0.1))
        else:
            kill_at_boundary(process, run, BOUNDARIES[kill])
        newest = max(run.checkpoints(), default=0)
        say(
            f"killed: {kill}, logged step {run.logged_step()}, newest checkpoint {newest}, after"
            f" {time.monotonic() - began:.2f} s, FAULT_SEED={seed}"
        )
        assert not run.events("finish"), "the run had finished: nothing was interrupted"
        process = start("resume", str(run.path))
    process.succeed()
    assert run.events("resume")[-1]["step"] == newest
    assert_identical(run, finished())


def kill_in_step(process: CliProcess, run: Run, step: int, *, delay: float) -> None:
    """Kills `delay` seconds after optimizer step `step` was logged."""
    process.wait_until(lambda: run.logged_step() >= step)
    time.sleep(delay)
    process.kill()


def kill_at_boundary(process: CliProcess, run: Run, offset: int) -> None:
    """Kills while the newest checkpoint is `offset` optimizer steps from the first epoch's last batch."""
    process.wait_until(lambda: run.rows() > 0)
    steps_per_epoch = run.rows() // ROWS_PER_STEP
    assert 4 <= steps_per_epoch <= 8, "the inputs make too short or too long an epoch"
    target = steps_per_epoch + offset
    process.wait_until(lambda: run.checkpoint(target).exists())
    process.kill()
    assert run.checkpoints()[-1] == target, "the machine was too busy to kill between two steps"
