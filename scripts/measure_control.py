"""What distillation brings over the control: the same initial weights, batches and steps without a teacher.

    python scripts/measure_control.py [--seeds 0 1] [--base runs/control] [--out docs/figures/control.json]

Trains demo_distilbert and demo_no_teacher with each seed (what has finished is not repeated, what was
interrupted continues), evaluates all on the whole held-out text and writes the figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from distillkit import __version__
from distillkit.evaluation.summary import print_table
from distillkit.rundir import CONFIG

EXPERIMENTS = ("demo_distilbert", "demo_no_teacher")


def command(*words: str) -> str:
    """Runs a distillkit command and returns its stdout; its progress goes to the screen."""
    done = subprocess.run([sys.executable, "-m", "distillkit", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def main() -> None:
    """Trains, evaluates, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--base", type=Path, default=Path("runs/control"))
    parser.add_argument("--out", type=Path, default=Path("docs/figures/control.json"))
    args = parser.parse_args()
    folders = [(e, seed, args.base / f"{e}_seed{seed}") for seed in args.seeds for e in EXPERIMENTS]
    for experiment, seed, folder in folders:
        if (folder / CONFIG).is_file():
            command("resume", str(folder))
        else:
            command("train", f"experiment={experiment}", f"seed={seed}", f"run.dir={folder}")
    names = [str(folder) for _, _, folder in folders]
    figures = json.loads(command("evaluate", *names, "teacher=demo", "--json"))
    runs = [{"experiment": e, "seed": seed, **figures[str(folder)]} for e, seed, folder in folders]
    teacher = next(row for name, row in figures.items() if name not in names)
    result = {"version": __version__, "cpus": os.cpu_count(), "teacher": teacher, "runs": runs}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table({"teacher": teacher} | {f"{r['experiment']} seed {r['seed']}": r for r in runs})


if __name__ == "__main__":
    main()
