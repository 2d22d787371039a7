"""What arms of a sweep save when they share their teacher's pass: one sweep several ways, one after the other.

    python scripts/measure_sharing.py [--steps 40] [--batch-size 32] [--ways share_cache ...]
        [--output docs/figures/sharing.json] [KEY=VALUE...]

KEY=VALUE are overrides of every arm. Each way is the real command line over the demo's teacher and text, arms of loss
weights, one process at a time: six apart, six with sweep.share_cache=true, four and six with sweep.shared_pass. Wall
times hold start-up and evaluation of every arm; the ratio is of seconds per arm.
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

from distillkit.redaction import shown_words
from distillkit.report.facts import machine

SIX = ["loss.alpha=1,2,5", "loss.gamma=0,1"]
FOUR = ["loss.alpha=1,2", "loss.gamma=0,1"]
WAYS = {
    "apart": (6, SIX),
    "share_cache": (6, [*SIX, "sweep.share_cache=true"]),
    "shared_pass_of_4": (4, [*FOUR, "sweep.shared_pass=4"]),
    "shared_pass_of_6": (6, [*SIX, "sweep.shared_pass=6"]),
}


def sweep_seconds(folder: Path, words: list[str]) -> float:
    """Wall time of a sweep in a new folder, seconds."""
    command = [sys.executable, "-m", "distillkit", "sweep", "experiment=demo_distilbert", *words]
    began = time.perf_counter()
    subprocess.run([*command, f"run.dir={folder}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measures and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS)[1:], default=list(WAYS)[1:], help="beside six apart")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of an arm")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of 128 tokens in a step")
    parser.add_argument("--output", type=Path, default=Path("docs/figures/sharing.json"))
    args = parser.parse_args()
    steps = ("trainer.max_steps", "trainer.val_check_interval", "checkpoint.every_n_steps")
    words = [f"{key}={args.steps}" for key in steps] + [f"data.batch_size={args.batch_size}"]
    words += ["trainer.limit_val_batches=2", "run.evaluation_batches=4", "run.report=false", *args.overrides]
    ways: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for way in ("apart", *args.ways):
            arms, more = WAYS[way]
            seconds = sweep_seconds(Path(place) / way, [*words, *more])
            per_arm = seconds / arms
            ratio = ways["apart"]["seconds_per_arm"] / per_arm if ways else 1.0
            ways[way] = {"arms": arms, "seconds": round(seconds, 1), "seconds_per_arm": round(per_arm, 2),
                         "ratio": round(ratio, 3)}  # fmt: skip
            print(f"{way}: {arms} arms in {seconds:.0f} s, {ratio:.2f} x", flush=True)
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "steps": args.steps,
        "batch_size": args.batch_size, "overrides": shown_words(args.overrides, paths=False), "ways": ways,
    }  # fmt: skip
    args.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
