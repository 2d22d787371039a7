"""`make demo`: two students of the demo teacher and a control without one, and a page that compares them.

    python scripts/demo.py [key=value ...]      overrides of every run, such as trainer.max_steps=20 for a quick look

Interrupted, it saves, and continues when called again; called when done, it shows the table again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from distillkit.rundir import CONFIG, EVENTS
from distillkit.status import read_status

BASE = Path("runs/demo")
RUNS = {
    "distilbert": ("demo_distilbert", "a DistilBERT-style student: every other layer of the teacher"),
    "albert": ("demo_albert", "an ALBERT-style student: one block used six times"),
    "control": ("demo_no_teacher", "the control: the first student's weights and batches, no teacher"),
}
WELCOME = """The demo: a teacher (an English BERT of 6 layers), two students of it and a control, on 25,000 reviews.
About 12 minutes on two cores. Ctrl-C saves; `make demo` continues."""
NEXT = """
Made:
  {page}   the page: open it in a browser
  {students}   the students: plain transformers folders

Next (first: source .venv/bin/activate):
  distillkit train experiment=demo_distilbert loss.gamma=0 run.dir=runs/demo/no_cosine     ablate a term of the loss
  distillkit report runs/demo/distilbert runs/demo/no_cosine output=runs/ablation          and compare
  distillkit info teacher.path=my_bert/ data=text data.path='corpus/*.txt'                 your own teacher and text"""


class Command:
    """distillkit as a process of its own. Ctrl-C reaches it too, so that it saves; SIGTERM is passed on."""

    def __init__(self, *words: str) -> None:
        print(f"\n$ distillkit {' '.join(words)}", flush=True)
        self.process = subprocess.Popen([sys.executable, "-m", "distillkit", *words, "--verbose"])
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.process.terminate())

    def exit_code(self) -> int:
        """Waits for its end."""
        return self.process.wait()


def train(name: str, overrides: list[str]) -> int:
    """Starts a run, or continues it unless it has finished; returns its exit code."""
    folder, (experiment, what) = BASE / name, RUNS[name]
    print(f"\n== {list(RUNS).index(name) + 1} of {len(RUNS)}: {what}")
    if (folder / CONFIG).is_file():
        if read_status(str(folder))["state"] == "finished":
            print(f"{folder} has finished")
            return 0
        return Command("resume", str(folder)).exit_code()
    # one page of all three at the end, instead of one each
    words = [f"experiment={experiment}", "run.report=false", f"run.dir={folder}", *overrides]
    return Command("train", *words).exit_code()


def report() -> int:
    """Writes the page where it is missing or older than a run; returns the exit code."""
    page, folders = BASE / "report.json", [BASE / name for name in RUNS]
    if page.is_file() and page.stat().st_mtime > max((f / EVENTS).stat().st_mtime for f in folders):
        facts = json.loads(page.read_text())
        if list(facts["runs"]) == list(RUNS):
            from distillkit.report.page import print_models  # late: it takes seconds, and nothing is on the screen yet

            print_models(facts)
            return 0
    return Command("report", *map(str, folders), f"output={BASE}").exit_code()


def main(overrides: list[str]) -> int:
    """Trains what is missing and shows all; returns the first exit code that is not 0."""
    print(WELCOME, flush=True)
    for name in RUNS:
        if code := train(name, overrides):
            return code
    print("\n== the page: sizes, speed, quality, side by side")
    if code := report():
        return code
    students = "  ".join(f"{BASE / name / 'student'}" for name in RUNS)
    print(NEXT.format(page=BASE / "report.html", students=students))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
