"""Arms as jobs: the command of a process, and how each arm in it has ended."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.definition import arm_words
from distillkit.sweeps.launchers import Job
from distillkit.sweeps.outcomes import has_begun
from distillkit.sweeps.together import Member, pass_key, read_ended, write_members
from distillkit.sweeps.words import quoted

TEACHER_CACHE = "teacher_cache"
TOGETHER = 4
"""Arms of a process with sweep.shared_pass=true: eight would save little more, and each takes its memory."""
_DISTILLKIT = (sys.executable, "-m", "distillkit")


class Work(NamedTuple):
    """A job and the arms it is of: one, or several that share their teacher's pass.

    Attributes:
        job: given to a launcher.
        arms: those in it that have not ended.
        members: file of `write_members`; None for an arm alone.
        size: arms it began with.
    """

    job: Job
    arms: list[Arm]
    members: Path | None
    size: int

    def ended(self) -> dict[str, int]:
        """Exit codes of arms that have ended while the job runs, by the folder's name."""
        return read_ended(self.members) if self.members else {}


class Jobs:
    """Makes the jobs of a sweep.

    Args:
        folder: of the sweep.
        ledger: its arms.
    """

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder, self.ledger = folder, ledger

    def path(self, arm: Arm) -> Path:
        """The folder of an arm's run."""
        return self.folder / arm.folder

    def log(self, arm: Arm) -> Path:
        """What an arm's processes print."""
        return self.path(arm).with_name(f"{self.path(arm).name}.log")

    def partners(self, cfg: Mapping[str, Any], others: Sequence[tuple[Arm, Mapping[str, Any]]]) -> list[Arm]:
        """The arms that are to share the process of one, in order; none unless the sweep shares passes.

        Args:
            cfg: of the one.
            others: arms that wait, with their configurations.
        """
        shared, key = self.ledger.sweep["shared_pass"], pass_key(cfg)
        if shared is False or key is None:
            return []
        most = TOGETHER if shared is True else shared
        return [arm for arm, other in others if pass_key(other) == key][: most - 1]

    def make(self, arms: Sequence[Arm], cfgs: Sequence[dict[str, Any]]) -> Work:
        """The job of one arm, or of several in one process. What has begun is resumed.

        Args:
            arms: none has finished.
            cfgs: their configurations.
        """
        from distillkit.building import ranks  # late: it brings torch

        for arm in arms:
            if not has_begun(self.path(arm)):
                shutil.rmtree(self.path(arm), ignore_errors=True)  # of a process that ended before it was a run
        if len(arms) == 1:
            (arm,), path = arms, self.path(arms[0])
            again = (*_DISTILLKIT, "resume", str(path))
            command = again if has_begun(path) else self._train(arm, cfgs[0])
            job = Job(path.name, command, self.log(arm), {}, again=again, processes=ranks(cfgs[0]))
            return Work(job, [arm], None, 1)
        first = self.path(arms[0])
        file = first.with_name(f"together_{first.name}.json")
        write_members(file, [
            Member(str(self.path(arm)), self._words(arm, cfg), self.ledger.config_dir, str(self.log(arm)))
            for arm, cfg in zip(arms, cfgs, strict=True)
        ])  # fmt: skip
        command = (*_DISTILLKIT, "train", "--together", str(file))
        return Work(Job(file.stem, command, file.with_suffix(".log"), {}, again=command), [*arms], file, len(arms))

    def _train(self, arm: Arm, cfg: Mapping[str, Any]) -> tuple[str, ...]:
        where = ("--config-dir", self.ledger.config_dir) if self.ledger.config_dir else ()
        return (*_DISTILLKIT, "train", *self._words(arm, cfg), *where)

    def _words(self, arm: Arm, cfg: Mapping[str, Any]) -> list[str]:
        """Train's overrides, with what the sweep adds: the shared cache, and W&B's names."""
        words = arm_words(self.ledger, arm, self.path(arm))
        if self.ledger.sweep["share_cache"] and cfg["teacher"]["_target_"] and not cfg["teacher"]["cache"]:
            words.append(quoted("teacher.cache", str(self.folder / TEACHER_CACHE)))
        for name, logger in cfg["logger"].items():  # W&B's
            for key, value in (("group", self._group()), ("name", self.path(arm).name)):
                if key in logger and logger[key] is None:
                    words.append(quoted(f"logger.{name}.{key}", value))
        return words

    def _group(self) -> str:
        """W&B's name for the sweep: sweeps of one definition in different folders are different groups."""
        return f"{self.ledger.name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]}"
