"""What an ALBERT-style student gains from its start: held-out loss after some steps, for each way to begin.

    python scripts/measure_albert_start.py [--steps 0 100 1000] [--starts average first ...] [--shares all]
        [--embedding-sizes 128] [--seeds 0] [--base FOLDER] [--out docs/figures/albert_start.json] [KEY=VALUE...]

Trains experiment=demo_albert once for each combination (what has finished is not repeated, what was interrupted
continues) and reads the held-out MLM loss and KL to the teacher off the one run: at step 0 of the student as it is
built, later where validation came by. KEY=VALUE are further overrides of train. With a schedule over the longest of
the steps, what stands at an earlier one is not a run of that length.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from distillkit import __version__, building, config, machine, validation
from distillkit.evaluation.summary import evaluate_side_by_side
from distillkit.progress import results_console
from distillkit.redaction import shown_words
from distillkit.report import facts
from distillkit.rundir import CONFIG, METRICS, read_metrics

STARTS = {
    "average": ["student.init=average", "student.layers=null"],
    "first": ["student.init=first", "student.layers=null"],
    "middle": ["student.init=first", "student.layers=[2]"],
    "last": ["student.init=first", "student.layers=[5]"],
    "random": ["student.init=random", "student.layers=null"],
}
"""middle and last make all blocks of one teacher layer, so that they need share=all."""
FIGURES = ("mlm_loss", "kl", "agreement")
FIXED = ("run.report=false", "run.evaluation_batches=1", "logger=none", "trainer.limit_val_batches=24")


def main(words: Sequence[str]) -> None:
    """Trains, evaluates, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 100, 1000])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--shares", nargs="+", default=["all"])
    parser.add_argument("--embedding-sizes", type=int, nargs="+", default=[128])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--base", type=Path, default=Path("runs/albert_start"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/albert_start.json"))
    args = parser.parse_args(words)
    if max(args.steps) < 1:
        parser.error("--steps: at least one beyond 0")
    runs, overrides = [], shown_words(args.overrides, paths=False)
    for share, width, start, seed in itertools.product(args.shares, args.embedding_sizes, args.starts, args.seeds):
        if share != "all" and start in ("middle", "last"):
            continue
        named = {"share": share, "embedding_size": width, "start": start, "seed": seed}
        choice = [f"student.share={share}", f"student.embedding_size={width}", f"seed={seed}", *STARTS[start]]
        folder = args.base / f"{share}_{width}_{start}_seed{seed}"
        runs.append(named | {"steps": measure(folder, [*choice, *args.overrides], sorted(set(args.steps)))})
        result = {"version": __version__, "machine": facts.machine(), "overrides": overrides, "runs": runs}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_runs(runs)


def measure(folder: Path, choice: list[str], steps: list[int]) -> dict[str, dict[str, float]]:
    """The held-out figures of one start.

    Args:
        folder: of its run, new or of an earlier call.
        choice: train's overrides that tell it from others.
        steps: ascending; 0 is the student as it is built.

    Returns:
        step -> FIGURES.
    """
    interval = math.gcd(*steps)
    words = ["experiment=demo_albert", *FIXED, f"trainer.max_steps={steps[-1]}", f"run.dir={folder}"]
    words += [f"trainer.val_check_interval={interval}", *choice]
    found = {"0": at_the_start(folder, words)} if steps[0] == 0 else {}
    verb = ["resume", str(folder)] if (folder / CONFIG).is_file() else ["train", *words]
    subprocess.run([sys.executable, "-m", "distillkit", *verb], check=True)
    rows = {int(float(row["step"])): row for row in read_metrics(folder / METRICS) if row.get("valid/mlm_loss")}
    return found | {str(step): {f: float(rows[step][f"valid/{f}"]) for f in FIGURES} for step in steps if step}


def at_the_start(folder: Path, words: list[str]) -> dict[str, float]:
    """FIGURES of the student that the run begins with, on the batches that its validation reads.

    They are kept beside the run's folder, so that a second call measures nothing again.
    """
    kept = folder.with_suffix(".step0.json")
    if not kept.is_file():
        cfg = config.settle(*config.load("train", words))
        validation.validate(cfg)
        machine.set_up(cfg["run"])
        parts = building.build(cfg)
        measured = evaluate_side_by_side(
            {"student": parts.student.model}, parts.data, teacher=parts.teacher,
            limit=cfg["trainer"]["limit_val_batches"], precision=cfg["trainer"]["precision"],
        )["student"]  # fmt: skip
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({figure: measured[figure] for figure in FIGURES}))
    return dict(json.loads(kept.read_text()))


def print_runs(runs: Sequence[dict[str, Any]]) -> None:
    """One row a run: its held-out MLM loss, and in brackets its KL, at each step."""
    table = Table("share", "E", "start", "seed", *(f"step {step}: MLM (KL)" for step in runs[0]["steps"]))
    for run in runs:
        cells = [f"{figures['mlm_loss']:.3f} ({figures['kl']:.3f})" for figures in run["steps"].values()]
        table.add_row(run["share"], str(run["embedding_size"]), run["start"], str(run["seed"]), *cells)
    results_console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
