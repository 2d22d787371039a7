"""What distillation brings over the control: the same initial weights, batches and steps without a teacher.

    python scripts/measure_control.py [--seeds 0 1] [--base runs/control] [--out docs/figures/control.json]

Trains demo_distilbert and demo_no_teacher with each seed (what has finished is not repeated, what was
interrupted continues) and writes their figures on the whole held-out text as JSON.
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
from distillkit.rundir import CONFIG, EVALUATION
from distillkit.status import read_status

EXPERIMENTS = ("demo_distilbert", "demo_no_teacher")


def command(*words: str) -> None:
    """Runs a distillkit command."""
    subprocess.run([sys.executable, "-m", "distillkit", *words], check=True)


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
            words = [f"experiment={experiment}", f"seed={seed}", f"run.dir={folder}", "run.evaluation_batches=null"]
            command("train", *words, "run.report=false")
    figures = {folder: json.loads((folder / EVALUATION).read_text()) for _, _, folder in folders}
    runs = [{"experiment": e, "seed": seed, **figures[folder]["student"]} for e, seed, folder in folders]
    teacher = figures[folders[0][2]]["teacher"]
    steps = read_status(str(folders[0][2]))["steps"]
    result = {"version": __version__, "cpus": os.cpu_count(), "steps": steps, "teacher": teacher, "runs": runs}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_table({"teacher": teacher} | {f"{r['experiment']} seed {r['seed']}": r for r in runs})


if __name__ == "__main__":
    main()
