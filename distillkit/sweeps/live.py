"""A sweep as a person follows it: a table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distillkit.locking import holder
from distillkit.progress import duration
from distillkit.status import read_status
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.outcomes import has_begun, last_value

SECONDS_BETWEEN_LOOKS = 1.0


class View:
    """What the verb sweep shows on stderr while it works; a context manager.

    Args:
        folder: of the sweep.
        ledger: its arms, read anew at every look.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder, self.ledger = folder, ledger
        self._live = Live(console=Console(stderr=True), auto_refresh=False) if sys.stderr.isatty() else None
        self._looked = 0.0
        done = {
            arm.number: last_value(folder / arm.folder, ledger.sweep["metric"]) for arm in ledger.with_status("done")
        }
        self._best = {number: value for number, value in done.items() if value is not None}

    def __enter__(self) -> View:
        if self._live is not None:
            self._live.start()
        self.say(f"{self.folder}: {_planned(self.ledger)} arms; {counts(self.ledger)}")
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def ended(self, arm: Arm) -> None:
        """A line for an arm that has ended."""
        metric, value = self.ledger.sweep["metric"], last_value(self.folder / arm.folder, self.ledger.sweep["metric"])
        if arm.status == "done" and value is not None:
            self._best[arm.number] = value
        said = f"{metric} {value:.4f} ({duration(arm.seconds)})" if value is not None else duration(arm.seconds)
        ended = len(self.ledger.with_status("done", "failed", "pruned"))
        self.say(f"[{ended}/{_planned(self.ledger)}] {arm.name}, seed {arm.seed}: {arm.status}, {arm.reason or said}")

    def show(self, jobs: int) -> None:
        """Renews the table, where there is one, now and then.

        Args:
            jobs: that run; of one with several arms each arm's time is a part of the job's.
        """
        if self._live is not None and time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._looked = time.monotonic()
            self._live.update(self._table(max(jobs, 1)), refresh=True)

    def _table(self, jobs: int) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("running", "step", self.ledger.sweep["metric"], "left"):
            table.add_column(name, justify="left" if name == "running" else "right")
        left = []
        for arm in self.ledger.with_status("running"):
            found = _progress(self.folder / arm.folder, self.ledger)
            left.append(found["seconds_left"])
            table.add_row(f"{arm.name}, seed {arm.seed}", f"{found['step'] or 0}/{found['steps'] or '?'}",
                          _value(found), _left(found["seconds_left"]))  # fmt: skip
        return Group(table, Text(f"{counts(self.ledger)}{self._best_text()}{self._total_left(left, jobs)}"))

    def _best_text(self) -> str:
        if not self._best:
            return ""
        number = min(self._best, key=lambda n: self._best[n])
        arm = next(arm for arm in self.ledger.arms if arm.number == number)
        return f"; best so far: {arm.name}, seed {arm.seed} ({self._best[number]:.4f})"

    def _total_left(self, left: list[float | None], jobs: int) -> str:
        """As if every arm that waits took the mean of those that are done."""
        done = [arm.seconds for arm in self.ledger.with_status("done") if arm.seconds]
        if not done or not left:
            return ""
        mean, together = sum(done) / len(done), len(left) / jobs
        ahead = sum(mean if seconds is None else seconds / together for seconds in left)
        ahead += mean * (_planned(self.ledger) - len(self.ledger.arms))
        ahead += mean * len(self.ledger.with_status("queued", "preempted"))
        return f"; about {duration(ahead / jobs)} left"


def _planned(ledger: Ledger) -> int:
    """Arms of the whole sweep; a search has yet to draw some of its own."""
    drawn = len(ledger.arms)
    return drawn if ledger.sweep["method"] == "grid" else max(drawn, ledger.sweep["trials"])


def _left(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def counts(ledger: Ledger) -> str:
    """Such as "3 done, 1 running, 2 queued"."""
    found = Counter(arm.status for arm in ledger.arms)
    return ", ".join(f"{number} {status}" for status, number in found.items()) or "none yet"


def facts(folder: Path, ledger: Ledger) -> dict[str, Any]:
    """A sweep's ledger as plain values, with its folder and the process that works on it: for --json.

    Args:
        folder: of the sweep.
        ledger: its arms; each is told with its step and steps (None before it began), seconds_left (while it runs)
            and value (the metric's newest).
    """
    told = {"sweep_dir": str(folder), "pid": holder(folder), **asdict(ledger)}
    told["arms"] = [asdict(arm) | _progress(folder / arm.folder, ledger) for arm in ledger.arms]
    return told


def _progress(run: Path, ledger: Ledger) -> dict[str, Any]:
    found = read_status(str(run)) if has_begun(run) else dict.fromkeys(("step", "steps", "seconds_left"))
    known = {name: found[name] for name in ("step", "steps", "seconds_left")}
    return known | {"value": last_value(run, ledger.sweep["metric"])}


def _value(found: dict[str, Any]) -> str:
    return "" if found["value"] is None else f"{found['value']:.4f}"


def as_text(folder: Path, ledger: Ledger) -> str:
    """The arms of a sweep as a plain table."""
    pid = holder(folder)
    state = f"process {pid}" if pid else "no process works on it"
    lines = [f"{folder}: {ledger.name}, {len(ledger.arms)} arms; {counts(ledger)} ({state})"]
    head = ("arm", "seed", "status", "step", ledger.sweep["metric"], "time", "")
    return "\n".join([*lines, *columns([head, *(_row(folder, ledger, arm) for arm in ledger.arms)])])


def _row(folder: Path, ledger: Ledger, arm: Arm) -> tuple[str, ...]:
    found = _progress(folder / arm.folder, ledger)
    step = "" if found["step"] is None else f"{found['step']}/{found['steps'] or '?'}"
    left = f"{_left(found['seconds_left'])} left" if arm.status == "running" and found["seconds_left"] else ""
    time = left or (duration(arm.seconds) if arm.seconds else "")
    return arm.name, str(arm.seed), arm.status, step, _value(found), time, arm.reason or ""


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as indented lines whose columns stand below each other; the last may be of any length."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    padded = ([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]] for row in rows)
    return ["  " + "  ".join(cells).rstrip() for cells in padded]
