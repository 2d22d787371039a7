"""What arms of a sweep save when they share their teacher's pass: one sweep three ways, one after the other.

    python scripts/measure_sharing.py [--steps 40] [--batch-size 32] [--output docs/figures/sharing.json]

Each way is the real command line over the demo's teacher and text, six arms of loss weights, one process at a time:
apart, with sweep.share_cache=true, and with sweep.shared_pass=6. Wall times hold start-up and evaluation of every arm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from distillkit.report.facts import machine

WAYS = {"apart": [], "share_cache": ["sweep.share_cache=true"], "shared_pass": ["sweep.shared_pass=6"]}
ARMS = ["loss.alpha=1,2,5", "loss.gamma=0,1"]


def sweep_seconds(folder: Path, words: list[str]) -> float:
    """Wall time of a sweep in a new folder, seconds."""
    command = [sys.executable, "-m", "distillkit", "sweep", "experiment=demo_distilbert", *ARMS, *words]
    began = time.perf_counter()
    subprocess.run([*command, f"run.dir={folder}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of an arm")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of 128 tokens in a step")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/sharing.json"))
    args = parser.parse_args()
    steps = ("trainer.max_steps", "trainer.val_check_interval", "checkpoint.every_n_steps")
    words = [f"{key}={args.steps}" for key in steps] + [f"data.batch_size={args.batch_size}"]
    words += ["trainer.limit_val_batches=2", "run.evaluation_batches=4", "run.report=false"]
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for way, more in WAYS.items():
            seconds[way] = sweep_seconds(Path(place) / way, [*words, *more])
            print(f"{way}: {seconds[way]:.0f} s, {seconds['apart'] / seconds[way]:.2f} x", flush=True)
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "arms": 6, "steps": args.steps,
        "batch_size": args.batch_size,
        "seconds": {way: round(value, 1) for way, value in seconds.items()},
        "ratio": {way: round(seconds["apart"] / value, 3) for way, value in seconds.items()},
    }  # fmt: skip
    args.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
