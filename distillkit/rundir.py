"""A run's folder: who holds it, what was configured, what happened in it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import yaml

from distillkit.errors import Preempted, RunStateError, StorageError
from distillkit.locking import LOCK, FolderLock
from distillkit.storage import append_text, write_text

CONFIG, OVERRIDES, FACTS, EVENTS, EVALUATION, COMPARISON = (
    "config.yaml", "overrides.yaml", "run.json", "events.jsonl", "evaluation.json", "comparison.json",
)  # fmt: skip
CHECKPOINTS, STUDENT, METRICS, ERRORS = "checkpoints", "student", "metrics.csv", "error.log"

BEGINNINGS = ("start", "resume")
"""Events a session of a run begins with."""


class RunFolder:
    """One run's folder, held by one process at a time; a context manager.

    Leaving it with an exception writes error.log; a folder in which no run was started is otherwise left as found.

    Args:
        path: of the folder.
        new: True to make it (it must not hold anything yet), False for a run that exists.
        held: False on ranks beyond the first and for readers, who neither lock nor write.

    Raises:
        RunStateError: in use (with the holder's pid), not empty, or not a run.
        StorageError: cannot be made or written.
    """

    def __init__(self, path: str | Path, *, new: bool, held: bool = True) -> None:
        self.path, self.held = Path(path), held
        self._lock: FolderLock | None = None
        self._new, self._made = new, list[Path]()
        if not new and not (self.path / CONFIG).is_file():
            raise RunStateError("not a run's folder", key="RUN_DIR", value=self.path, fix="name a folder made by train")
        if not held:
            return
        try:
            if new:
                self._make()
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}", key="run.dir", value=self.path, fix="choose another run.dir"
            ) from error
        if new:
            self._refuse_content()

    def _make(self) -> None:
        folder = self.path
        while not folder.exists():
            self._made.append(folder)
            folder = folder.parent
        self.path.mkdir(parents=True, exist_ok=True)

    def _refuse_content(self) -> None:
        content = sorted(p.name for p in self.path.iterdir() if p.name not in (LOCK, ERRORS))
        if content:
            self.release()
            started = CONFIG in content
            raise RunStateError(
                "holds a run already" if started else f"not empty ({content[0]})", key="run.dir", value=self.path,
                fix=f"distillkit resume {self.path}" if started else "choose another run.dir",
            )  # fmt: skip

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not self.held:
            return
        if error is not None and not isinstance(error, SystemExit | Preempted):
            with contextlib.suppress(OSError):
                (self.path / ERRORS).write_text("".join(traceback.format_exception(error)))
        self.release()

    def release(self) -> None:
        """Lets go of the folder; folders made here in which nothing else was written are removed."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                if self._new and not (self.path / CONFIG).exists():
                    (self.path / LOCK).unlink()
                for folder in self._made:
                    folder.rmdir()
            self._lock.release()
            self._lock = None

    # --- what is written -------------------------------------------------------------------------

    def write_config(self, config: dict[str, Any], overrides: list[str], facts: dict[str, Any]) -> None:
        """Writes config.yaml, overrides.yaml and run.json (facts, and the configuration again to compare with).

        Args:
            config: settled.
            overrides: train's, as typed.
            facts: plain values that resume must find unchanged (the corpus), and what is good to know.
        """
        if self.held:
            (self.path / ERRORS).unlink(missing_ok=True)
            write_text(self.path / OVERRIDES, yaml.safe_dump(overrides))
            write_text(self.path / FACTS, json.dumps(facts | {"config": config}, indent=1))
            write_text(self.path / CONFIG, yaml.safe_dump(config, sort_keys=False))  # last: it makes the folder a run

    def write_evaluation(self, figures: dict[str, Any]) -> None:
        """Writes evaluation.json."""
        write_text(self.path / EVALUATION, json.dumps(figures, indent=1))

    def write_comparison(self, figures: dict[str, Any]) -> None:
        """Writes comparison.json."""
        write_text(self.path / COMPARISON, json.dumps(figures, indent=1, allow_nan=False))

    def event(self, name: str, **fields: Any) -> None:
        """Appends a line to events.jsonl: the time (Unix seconds), the event's name and its fields."""
        if self.held:
            line = json.dumps({"time": round(time.time(), 3), "event": name, **fields})
            path = self.path / EVENTS
            append_text(path, f"{line}\n" if _ends_a_line(path) else f"\n{line}\n")

    # --- what is read ----------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml."""
        return yaml.safe_load((self.path / CONFIG).read_text())

    @property
    def overrides(self) -> list[str]:
        """overrides.yaml: train's, as typed."""
        return yaml.safe_load((self.path / OVERRIDES).read_text())

    @property
    def commands(self) -> list[list[str]]:
        """The overrides of train, then those of each resume that had any, as typed."""
        return [self.overrides, *(event["overrides"] for event in read_events(self.path) if event.get("overrides"))]

    @property
    def facts(self) -> dict[str, Any]:
        """run.json."""
        return json.loads((self.path / FACTS).read_text())

    @property
    def evaluation(self) -> dict[str, Any]:
        """evaluation.json; empty before the run's first end."""
        return self._read(EVALUATION)

    @property
    def comparison(self) -> dict[str, Any]:
        """comparison.json, the student on tasks; empty before it was compared."""
        return self._read(COMPARISON)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def finished_step(self) -> int | None:
        """The optimizer step the run has finished at, evaluated and exported; None while it has not."""
        last = next((e for e in reversed(read_events(self.path)) if e["event"] in (*BEGINNINGS, "finish")), None)
        return last["step"] if last and last["event"] == "finish" else None


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's events.jsonl; one that a kill cut off is skipped. Empty before the first.

    Args:
        folder: a run's.
    """
    path, events = folder / EVENTS, []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    return events


def _ends_a_line(path: Path) -> bool:
    """Whether what is appended to a file begins a line: not after a line that a kill cut off."""
    if not path.exists() or not path.stat().st_size:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics table, without the empty cells; a row cut off by a kill is left out.

    Args:
        path: written by MetricsFile; need not exist.

    Returns:
        name -> text per row; `step` is always there.
    """
    if not path.exists():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]
    return [row for row in rows if "step" in row]
