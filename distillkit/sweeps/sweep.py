"""The loop of a sweep: starts its arms, follows them, writes down how each ended."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from distillkit.errors import ConfigError, Preempted, RunStateError
from distillkit.locking import holder, workplace
from distillkit.rundir import CONFIG
from distillkit.sweeps.arms import LEDGER, Arm, Ledger, Status
from distillkit.sweeps.definition import arm_words, continued, settled
from distillkit.sweeps.launchers import Job, Launcher
from distillkit.sweeps.live import View
from distillkit.sweeps.outcomes import PREEMPTED, has_begun, has_finished, last_value, metric_rows, reason_of, step_of
from distillkit.sweeps.words import quoted

TEACHER_CACHE = "teacher_cache"
_DISTILLKIT = (sys.executable, "-m", "distillkit")
_SECONDS_BETWEEN_LOOKS = 0.2
_STOPPED = "stopped; the arms are saved, and the same command continues them"


class Searcher(Protocol):
    """Chooses arms as a sweep goes."""

    def ask(self) -> Arm | None:
        """The next arm; None when no more are to be started."""

    def tell(self, arm: Arm, value: float | None) -> None:
        """How an arm ended: its metric's last value; None when it failed or has none. Again: nothing new."""

    def report(self, arm: Arm, step: int, value: float) -> bool:
        """A value of the metric while an arm runs, by optimizer step; True when it is hopeless and is to be pruned."""


class Sweep:
    """A sweep at work in its folder, which this process holds.

    Args:
        folder: of the sweep.
        ledger: its arms; written at every change.
        launcher: where they run.
        searcher: chooses arms beyond the ledger's; None for a grid.
        view: told what happens.
    """

    def __init__(self, folder: Path, ledger: Ledger, launcher: Launcher, searcher: Searcher | None, view: View) -> None:
        self.folder, self.ledger, self.launcher, self.searcher, self.view = folder, ledger, launcher, searcher, view
        self._running: dict[str, Arm] = {}
        self._foreign: dict[int, Arm] = {}  # of an earlier process of the sweep, by their process
        self._began: dict[int, float] = {}
        self._offsets: dict[int, int] = {}
        self._steps: dict[int, int] = {}
        self._reported: dict[int, int] = {}
        self._hopeless: dict[int, str] = {}
        self._spent = self._stopping = False

    def run(self) -> None:
        """Runs every arm that is queued or preempted, and those the searcher asks for.

        Raises:
            Preempted: SIGTERM or Ctrl-C; the arms are stopped and saved.
        """
        self._recover()
        for arm in self.ledger.with_status("done", "failed", "pruned"):  # a kill may have come before the telling
            self._tell(arm)
        waiting = [arm for arm in self.ledger.arms if arm.status in ("queued", "preempted")]
        self.ledger.write(self.folder)
        try:
            while True:
                self._collect()
                self._start_more(waiting)
                if not (self._running or self._foreign):
                    break
                self._report()
                self.view.show()
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except (Preempted, KeyboardInterrupt):
            self._stop()
            raise Preempted(_STOPPED) from None
        finally:
            self.launcher.close()

    def path(self, arm: Arm) -> Path:
        """The folder of an arm's run."""
        return self.folder / arm.folder

    # --- what an earlier process has left -------------------------------------------------------------------------

    def _recover(self) -> None:
        """Settles the arms that the ledger has as running: some still do, some have ended meanwhile."""
        for arm in self.ledger.with_status("running"):
            pid = holder(self.path(arm)) if self.path(arm).is_dir() else None
            if pid is not None:
                self.view.say(f"{arm.name}, seed {arm.seed}: still stopping (process {pid})")
                self._foreign[pid] = arm
            else:
                self._settle(arm)

    def _settle(self, arm: Arm) -> None:
        """Writes down an arm whose process has ended unseen."""
        if has_finished(self.path(arm)):
            self._end(arm, "done", None)
        else:
            arm.status, arm.reason = "queued", None

    # --- starting -------------------------------------------------------------------------------------------------

    def _start_more(self, waiting: list[Arm]) -> None:
        while len(self._running) + len(self._foreign) < self.launcher.slots:
            arm = waiting.pop(0) if waiting else self._ask()
            if arm is None:
                return
            try:
                cfg = settled(self.ledger, arm, self.path(arm))
            except ConfigError as error:  # of a search's; a grid's were checked before the first
                self._end(arm, "failed", str(error))
                continue
            self._spent = not self._within_budget(arm, cfg["trainer"]["max_steps"])
            if self._spent:
                waiting.clear()
                self.view.say("the budget is spent: no further arm is started")
                return
            self._start(arm, cfg)

    def _ask(self) -> Arm | None:
        arm = self.searcher.ask() if self.searcher and not self._spent else None
        if arm is not None:
            self.ledger.arms.append(arm)
        return arm

    def _within_budget(self, arm: Arm, steps: int) -> bool:
        """Whether an arm may be started: its steps count in full beforehand, and those of the arms that run."""
        budget, now = self.ledger.sweep, time.time()
        seconds = sum(a.seconds for a in self.ledger.arms) + sum(now - began for began in self._began.values())
        if budget["max_hours"] is not None and seconds >= budget["max_hours"] * 3600:
            return False
        if budget["max_steps"] is None:
            return True
        ended = [a for a in self.ledger.arms if a is not arm and a.number not in self._began]
        ahead = steps + sum(self._steps[number] for number in self._began)
        return sum(step_of(self.path(a)) for a in ended) + ahead <= budget["max_steps"]

    def _start(self, arm: Arm, cfg: dict[str, Any]) -> None:
        path, log = self.path(arm), self._log(arm)
        if has_finished(path):
            self._end(arm, "done", None)
            return
        self._offsets[arm.number] = log.stat().st_size if log.is_file() else 0
        self._steps[arm.number] = cfg["trainer"]["max_steps"]
        arm.status, arm.reason, arm.exit_code = "running", None, None
        arm.attempts += 1
        arm.started = arm.started or time.time()
        self.ledger.write(self.folder)
        self._began[arm.number] = time.time()
        self._running[path.name] = arm
        self.launcher.start(Job(path.name, self._command(arm, cfg), log, {}, again=(*_DISTILLKIT, "resume", str(path))))

    def _command(self, arm: Arm, cfg: dict[str, Any]) -> tuple[str, ...]:
        path = self.path(arm)
        if has_begun(path):
            return (*_DISTILLKIT, "resume", str(path))
        shutil.rmtree(path, ignore_errors=True)  # of a process that ended before it was a run
        words = arm_words(self.ledger, arm, path)
        if self.ledger.sweep["share_cache"] and cfg["teacher"]["_target_"] and not cfg["teacher"]["cache"]:
            words.append(quoted("teacher.cache", str(self.folder / TEACHER_CACHE)))
        for name, logger in cfg["logger"].items():  # W&B's
            for key, value in (("group", self.ledger.name), ("name", path.name)):
                if key in logger and logger[key] is None:
                    words.append(quoted(f"logger.{name}.{key}", value))
        where = ("--config-dir", self.ledger.config_dir) if self.ledger.config_dir else ()
        return (*_DISTILLKIT, "train", *words, *where)

    def _log(self, arm: Arm) -> Path:
        return self.path(arm).with_name(f"{self.path(arm).name}.log")

    # --- while they run -------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tells the searcher the new values of the metric, and stops the arms it finds hopeless."""
        for key, arm in self._running.items() if self.searcher else ():
            assert self.searcher is not None
            for step, value in metric_rows(self.path(arm), self.ledger.sweep["metric"]):
                if step <= self._reported.get(arm.number, -1) or arm.number in self._hopeless:
                    continue
                self._reported[arm.number] = step
                if self.searcher.report(arm, step, value):
                    self._hopeless[arm.number] = f"{self.ledger.sweep['metric']} {value:.4g} at step {step}"
                    self.launcher.stop(key)

    # --- their ends -----------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for key, code in self.launcher.ended().items():
            arm = self._running.pop(key)
            arm.exit_code = code
            self._end(arm, *self._outcome(arm, code))
        for pid, arm in list(self._foreign.items()):
            if holder(self.path(arm)) != pid:
                del self._foreign[pid]
                self._settle(arm)
                if arm.status == "queued" and not self._stopping:
                    self._start(arm, settled(self.ledger, arm, self.path(arm)))

    def _outcome(self, arm: Arm, code: int) -> tuple[Status, str | None]:
        path = self.path(arm)
        if code == 0 and has_finished(path):
            return "done", None
        if arm.number in self._hopeless:
            return "pruned", self._hopeless[arm.number]
        if code == PREEMPTED or (self._stopping and code == -signal.SIGTERM):  # -15: it had not come to its first step
            return "preempted", f"stopped at step {step_of(path)}"
        return "failed", reason_of(code, self._log(arm), self._offsets[arm.number])

    def _end(self, arm: Arm, status: Status, reason: str | None) -> None:
        began = self._began.pop(arm.number, None)
        arm.status, arm.reason = status, reason
        if began is not None:
            arm.seconds += time.time() - began
            arm.ended = time.time()
        self.ledger.write(self.folder)
        if status in ("done", "failed", "pruned"):
            self._tell(arm)
        self.view.ended(arm)

    def _tell(self, arm: Arm) -> None:
        if self.searcher is not None:
            value = last_value(self.path(arm), self.ledger.sweep["metric"])
            self.searcher.tell(arm, None if arm.status == "failed" else value)

    def _stop(self) -> None:
        """Stops what runs, and writes down that it was saved."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._stopping = True
        self.view.say(f"stopping {len(self._running)} arms, which save themselves first")
        self.launcher.close()
        self._collect()


def run_sweep(
    folder: Path,
    planned: Ledger,
    launcher: Launcher,
    *,
    search: Callable[[Path, Ledger], Searcher] | None = None,
    retry_failed: bool = False,
) -> Ledger:
    """Runs what is missing of a sweep.

    Args:
        folder: of the sweep, new or begun earlier.
        planned: from `definition.plan`.
        launcher: where arms run.
        search: makes what chooses arms, of the folder and the ledger as found there; None for a grid.
        retry_failed: run arms again that have failed.

    Returns:
        The ledger as the sweep left it.

    Raises:
        RunStateError: another process works in the folder, or it holds something else.
        Preempted: stopped, itself or an arm; what was begun is saved, and the same command continues it.
    """
    if (folder / CONFIG).is_file():
        raise RunStateError("holds a run, not a sweep", key="run.dir", value=folder, fix="choose another run.dir")
    with workplace(folder, begun=LEDGER, stopped=_STOPPED):
        ledger = continued(folder, planned)
        if retry_failed:
            for arm in ledger.with_status("failed"):
                arm.status, arm.reason = "queued", None
        ledger.write(folder)
        searcher = search(folder, ledger) if search else None
        with View(folder, ledger) as view:
            Sweep(folder, ledger, launcher, searcher, view).run()
        if stopped := ledger.with_status("preempted"):
            raise Preempted(f"{len(stopped)} arms were stopped and saved; the same command continues them")
    return ledger
