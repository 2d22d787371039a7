"""The whole `distillkit train` loop against the bare step: what data, logging, Lightning and checkpoints cost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from distillkit import building
from distillkit.rundir import RunFolder, read_metrics
from scripts.benchmarking.contenders import Ours
from scripts.benchmarking.rounds import quartiles

_EXPERIMENT = "demo_distilbert"
_COLUMN = "speed/tokens_per_second"
_WINDOW, _WARM = 10, 1
"""Steps of a row of metrics.csv, and rows that are left out at the start."""


def measure(folder: Path, *, steps: int, turns: int, words: list[str]) -> dict[str, Any]:
    """Runs the command and the bare step in turn, over the same batches from the same weights.

    Args:
        folder: for the runs; must not exist.
        steps: of a run, a multiple of 10 and at least 30.
        turns: how often each.
        words: further overrides of the run.

    Returns:
        loop and bare (tokens/s as `quartiles` over windows of 10 steps), and share, the loop's median of the bare's.
    """
    loop: list[float] = []
    bare: list[float] = []
    for turn in range(turns):
        run = folder / f"turn_{turn}"
        loop += _command(run, steps, words)
        bare += _bare(run, steps)
    found: dict[str, Any] = {"loop": quartiles(loop), "bare": quartiles(bare), "steps": steps, "turns": turns}
    return found | {"share": found["loop"]["median"] / found["bare"]["median"]}


def _command(run: Path, steps: int, words: list[str]) -> list[float]:
    """Tokens/s of each window of a real run."""
    options = [
        f"experiment={_EXPERIMENT}", f"run.dir={run}", f"trainer.max_steps={steps}", "trainer.limit_val_batches=0",
        f"trainer.log_every_n_steps={_WINDOW}", "run.evaluation_batches=1", "run.report=false", *words,
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "distillkit", "train", *options], check=True, stdout=subprocess.DEVNULL)
    rows = read_metrics(run / "metrics.csv")
    return [float(row[_COLUMN]) for row in rows if row.get(_COLUMN)][_WARM:]


def _bare(run: Path, steps: int) -> list[float]:
    """Tokens/s of each window of the same steps alone: the same parts, the same batches, made beforehand."""
    cfg = RunFolder(run, new=False, held=False).config
    parts = building.build(cfg)
    step = Ours(building.build_module(cfg, parts), cfg["trainer"]["precision"])
    batches = list(parts.data.train_stream(end_step=steps))
    found = []
    for window in (batches[first : first + _WINDOW] for first in range(0, steps, _WINDOW)):
        start = time.perf_counter()
        for batch in window:
            step.step(batch)
        found.append(sum(batch.totals.attended for batch in window) / (time.perf_counter() - start))
    return found[_WARM:]
