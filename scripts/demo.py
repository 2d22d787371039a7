"""`make demo`: distils the demo teacher into both kinds of student and prints one table.

Run again after an interruption it continues; run again when done it prints the table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from distillkit.evaluation.summary import print_table
from distillkit.rundir import CONFIG, EVALUATION

RUNS = {"distilbert": "demo_distilbert", "albert": "demo_albert"}
BASE = Path("runs/demo")


def main() -> int:
    """Trains what is missing, one CLI process per run, then prints the table; returns the first failing exit code."""
    for number, (name, experiment) in enumerate(RUNS.items(), start=1):
        folder = BASE / name
        words = ["train", f"experiment={experiment}", f"run.dir={folder}"]
        if (folder / CONFIG).is_file():
            words = ["resume", str(folder)]
        print(f"\n[{number}/{len(RUNS)}] distillkit {' '.join(words)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "distillkit", *words], check=False).returncode
        if code:
            return code
    table = {}
    for name in RUNS:
        figures = json.loads((BASE / name / EVALUATION).read_text())
        table |= {"teacher": figures["teacher"], f"{name} student": figures["student"]}
    print("\nHeld-out IMDb reviews that neither teacher nor students have seen:")
    print_table(table)
    print(f"students: {', '.join(str(BASE / name / 'student') for name in RUNS)}")
    print("next: distillkit evaluate runs/demo/distilbert  |  distillkit train experiment=demo_no_teacher")
    print("      distillkit info teacher.path=my_bert/ data=text data.path='*.txt'")
    return 0


if __name__ == "__main__":
    sys.exit(main())
