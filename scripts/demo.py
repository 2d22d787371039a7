"""`make demo`: distils the demo teacher into both kinds of student and prints one table.

Run again after an interruption it continues; run again when done it prints the table. --record FILE also writes the
table and the seconds each run took as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from distillkit.evaluation.summary import print_table
from distillkit.rundir import CONFIG, EVALUATION, EVENTS

RUNS = {"distilbert": "demo_distilbert", "albert": "demo_albert"}
BASE = Path("runs/demo")
NEXT = """students: {students}
next: distillkit evaluate runs/demo/distilbert          its held-out figures again
      distillkit train experiment=demo_no_teacher       the control: what distillation brings
      distillkit info teacher.path=my_bert/ data=text data.path='*.txt'
(first: source .venv/bin/activate)"""


def train(name: str, experiment: str) -> int:
    """Starts or continues one run in a process of its own; returns its exit code."""
    folder = BASE / name
    words = ["train", f"experiment={experiment}", f"run.dir={folder}"]
    if (folder / CONFIG).is_file():
        words = ["resume", str(folder)]
    print(f"\ndistillkit {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "distillkit", *words], check=False).returncode


def seconds(name: str) -> float:
    """Wall time from a run's first event to its last."""
    times = [json.loads(line)["time"] for line in (BASE / name / EVENTS).read_text().splitlines()]
    return times[-1] - times[0]


def main() -> int:
    """Trains what is missing, prints and records; returns the first exit code that is not 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path)
    args = parser.parse_args()
    for name, experiment in RUNS.items():
        if code := train(name, experiment):
            return code
    table = {}
    for name in RUNS:
        figures = json.loads((BASE / name / EVALUATION).read_text())
        table |= {"teacher": figures["teacher"], f"{name} student": figures["student"]}
    print("\nHeld-out IMDb reviews, seen by neither teacher nor students:")
    print_table(table)
    print(NEXT.format(students=", ".join(str(BASE / name / "student") for name in RUNS)))
    if args.record:
        record = {"cpus": os.cpu_count(), "seconds": {name: seconds(name) for name in RUNS}, "table": table}
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
