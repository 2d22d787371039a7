"""What a sweep consists of: arms, how each is getting on, and the file that says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distillkit.storage import write_text

LEDGER, ARMS = "sweep.json", "arms"
STUDY = "study.journal"
"""Optuna's file of a search, in the sweep's folder."""

Status = Literal["queued", "running", "done", "failed", "preempted", "pruned"]


@dataclass
class Arm:
    """One training run of a sweep.

    Attributes:
        number: from 0, in the order of planning; a search adds arms as it goes.
        name: what sets it apart, the same for every seed: an arm's name in the definition, or its varied values.
        seed: of the run.
        words: train's overrides that set it apart, the seed left out.
        values: of the varied keys, plain, for tables and searches; empty for an arm that is listed by name.
        status: preempted: stopped and saved, to be continued; pruned: ended by the search, not to be continued.
        reason: why it failed, was preempted or pruned, in one line.
        exit_code: of its last process; negative: the signal that ended it.
        attempts: processes it has had.
        seconds: of all its processes together.
        started, ended: Unix seconds of the first start and of the last end.
    """

    number: int
    name: str
    seed: int
    words: list[str]
    values: dict[str, Any] = field(default_factory=dict)
    status: Status = "queued"
    reason: str | None = None
    exit_code: int | None = None
    attempts: int = 0
    seconds: float = 0.0
    started: float | None = None
    ended: float | None = None

    @property
    def folder(self) -> str:
        """Of its run, within the sweep's: a name that a shell need not quote and no verb takes for an override."""
        plain = "".join(c if c.isalnum() or c in "._-" else "_" for c in self.name.replace("=", "-"))
        return f"{ARMS}/{self.number:03d}_{plain[:60]}_seed_{self.seed}"


@dataclass
class Ledger:
    """A sweep as its file tells it: rewritten whole, atomically, at every change, by one process.

    Attributes:
        name: of the definition.
        shared: train's overrides that all arms have, as typed or defined; paths absolute.
        config_dir: of the user's own files, absolute; or None.
        sweep, launcher: the settled nodes of the configuration.
        baseline: name of the arms that the others are measured against.
        command: as typed, to repeat the sweep.
        arms: by number.
    """

    name: str
    shared: list[str]
    config_dir: str | None
    sweep: dict[str, Any]
    launcher: dict[str, Any]
    baseline: str | None
    command: list[str]
    arms: list[Arm] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Writes sweep.json into the sweep's folder."""
        write_text(folder / LEDGER, json.dumps({"version": 1, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """What sweep.json of a sweep's folder tells.

        Raises:
            FileNotFoundError: no sweep was begun there.
        """
        told = json.loads((folder / LEDGER).read_text())
        del told["version"]
        return cls(**told | {"arms": [Arm(**arm) for arm in told["arms"]]})

    def with_status(self, *statuses: Status) -> Sequence[Arm]:
        """Its arms of these statuses."""
        return [arm for arm in self.arms if arm.status in statuses]
