"""The loop of a sweep: starts its arms, follows them, writes down how each ended."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from distillkit.errors import ConfigError, Preempted, RunStateError
from distillkit.locking import holder, workplace
from distillkit.rundir import CONFIG
from distillkit.sweeps.arms import LEDGER, Arm, Ledger, Status
from distillkit.sweeps.budget import affordable
from distillkit.sweeps.definition import continued, settled
from distillkit.sweeps.jobs import Jobs, Work
from distillkit.sweeps.launchers import Launcher
from distillkit.sweeps.live import View
from distillkit.sweeps.outcomes import PREEMPTED, has_finished, last_value, metric_rows, reason_of, step_of

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
        self.jobs = Jobs(folder, ledger)
        self._waiting: list[Arm] = []
        self._running: dict[str, Work] = {}
        self._foreign: dict[int, list[Arm]] = {}  # of an earlier process of the sweep, by their process
        self._configs: dict[int, dict[str, Any]] = {}
        self._began: dict[int, float] = {}
        self._offsets: dict[int, int] = {}
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
        self._waiting = [arm for arm in self.ledger.arms if arm.status in ("queued", "preempted")]
        self.ledger.write(self.folder)
        try:
            while True:
                self._collect()
                self._start_more()
                if not (self._running or self._foreign):
                    break
                self._report()
                self.view.show(jobs=len(self._running))
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        except (Preempted, KeyboardInterrupt):
            self._stop()
            raise Preempted(_STOPPED) from None
        finally:
            self.launcher.close()

    # --- what an earlier process has left -------------------------------------------------------------------------

    def _recover(self) -> None:
        """Settles the arms that the ledger has as running: some still do, some have ended meanwhile."""
        for arm in self.ledger.with_status("running"):
            pid = holder(self.jobs.path(arm)) if self.jobs.path(arm).is_dir() else None
            if pid is not None:
                self.view.say(f"{arm.name}, seed {arm.seed}: still stopping (process {pid})")
                self._foreign.setdefault(pid, []).append(arm)
            else:
                self._settle(arm)

    def _settle(self, arm: Arm) -> None:
        """Writes down an arm whose process has ended unseen."""
        if has_finished(self.jobs.path(arm)):
            self._end(arm, "done", None)
        else:
            arm.status, arm.reason = "queued", None

    # --- starting -------------------------------------------------------------------------------------------------

    def _start_more(self) -> None:
        while len(self._running) + len(self._foreign) < self.launcher.slots:
            arm = self._waiting.pop(0) if self._waiting else self._ask()
            if arm is None:
                return
            try:
                arms = [arm, *self._partners(arm)]
            except ConfigError as error:  # of a search's; a grid's were checked before the first
                self._end(arm, "failed", str(error))
                continue
            arms = self._within_budget(arms)
            if arms:
                self._start(arms)
            if self._spent:
                self._waiting.clear()
                self.view.say("the budget is spent: no further arm is started")
                return

    def _ask(self) -> Arm | None:
        arm = self.searcher.ask() if self.searcher and not self._spent else None
        if arm is not None:
            self.ledger.arms.append(arm)
        return arm

    def _config(self, arm: Arm) -> dict[str, Any]:
        if arm.number not in self._configs:
            self._configs[arm.number] = settled(self.ledger, arm, self.jobs.path(arm))
        return self._configs[arm.number]

    def _partners(self, arm: Arm) -> list[Arm]:
        """Arms that are to share the process of one, taken from those that wait."""
        cfg = self._config(arm)
        if self.ledger.sweep["shared_pass"] is False:
            return []
        partners = self.jobs.partners(cfg, [(other, self._config(other)) for other in self._waiting])
        for partner in partners:
            self._waiting.remove(partner)
        return partners

    def _within_budget(self, arms: list[Arm]) -> list[Arm]:
        now = time.time()
        seconds = sum((now - self._began[arm.number]) / w.size for w in self._running.values() for arm in w.arms)
        allowed = affordable(
            self.ledger.sweep, arms, every=self.ledger.arms, running=self._began, seconds_running=seconds,
            steps=self._steps, path=self.jobs.path,
        )  # fmt: skip
        self._spent = len(allowed) < len(arms)
        return allowed

    def _steps(self, arm: Arm) -> int:
        return self._config(arm)["trainer"]["max_steps"]

    def _start(self, arms: list[Arm]) -> None:
        for arm in [arm for arm in arms if has_finished(self.jobs.path(arm))]:
            self._end(arm, "done", None)
            arms.remove(arm)
        if not arms:
            return
        for arm in arms:
            log = self.jobs.log(arm)
            self._offsets[arm.number] = log.stat().st_size if log.is_file() else 0
            arm.status, arm.reason, arm.exit_code = "running", None, None
            arm.attempts += 1
            arm.started = arm.started or time.time()
            self._began[arm.number] = time.time()
        self.ledger.write(self.folder)
        work = self.jobs.make(arms, [self._config(arm) for arm in arms])
        self._running[work.job.key] = work
        self.launcher.start(work.job)

    # --- while they run -------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tells the searcher the new values of the metric, and stops the arms it finds hopeless."""
        for key, work in self._running.items() if self.searcher else ():
            assert self.searcher is not None
            (arm,) = work.arms  # a search shares no passes
            for step, value in metric_rows(self.jobs.path(arm), self.ledger.sweep["metric"]):
                if step <= self._reported.get(arm.number, -1) or arm.number in self._hopeless:
                    continue
                self._reported[arm.number] = step
                if self.searcher.report(arm, step, value):
                    self._hopeless[arm.number] = f"{self.ledger.sweep['metric']} {value:.4g} at step {step}"
                    self.launcher.stop(key)

    # --- their ends -----------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        for work in self._running.values():
            self._settle_told(work)
        for key, code in self.launcher.ended().items():
            work = self._running.pop(key)
            self._settle_told(work)
            for arm in list(work.arms):
                self._settle_code(work, arm, code)
        for pid, arms in list(self._foreign.items()):
            if holder(self.jobs.path(arms[0])) != pid:
                del self._foreign[pid]
                for arm in arms:
                    self._settle(arm)
                self._waiting[:0] = [arm for arm in arms if arm.status == "queued" and not self._stopping]

    def _settle_told(self, work: Work) -> None:
        """Settles the arms of a job that have ended before it."""
        codes = work.ended()
        for arm in [arm for arm in work.arms if self.jobs.path(arm).name in codes]:
            self._settle_code(work, arm, codes[self.jobs.path(arm).name])

    def _settle_code(self, work: Work, arm: Arm, code: int) -> None:
        work.arms.remove(arm)
        arm.exit_code = code
        self._end(arm, *self._outcome(arm, code), parts=work.size)

    def _outcome(self, arm: Arm, code: int) -> tuple[Status, str | None]:
        path = self.jobs.path(arm)
        if code == 0 and has_finished(path):
            return "done", None
        if arm.number in self._hopeless:
            return "pruned", self._hopeless[arm.number]
        if code == PREEMPTED or (self._stopping and code == -signal.SIGTERM):  # -15: it had not come to its first step
            return "preempted", f"stopped at step {step_of(path)}"
        return "failed", reason_of(code, self.jobs.log(arm), self._offsets[arm.number])

    def _end(self, arm: Arm, status: Status, reason: str | None, parts: int = 1) -> None:
        """Writes down how an arm ended, and its part of its process's time."""
        began = self._began.pop(arm.number, None)
        arm.status, arm.reason = status, reason
        if began is not None:
            arm.seconds += (time.time() - began) / parts
            arm.ended = time.time()
        self.ledger.write(self.folder)
        if status in ("done", "failed", "pruned"):
            self._tell(arm)
        self.view.ended(arm)

    def _tell(self, arm: Arm) -> None:
        if self.searcher is not None:
            value = last_value(self.jobs.path(arm), self.ledger.sweep["metric"])
            self.searcher.tell(arm, None if arm.status == "failed" else value)

    def _stop(self) -> None:
        """Stops what runs, and writes down that it was saved."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._stopping = True
        arms = sum(len(work.arms) for work in self._running.values())
        self.view.say(f"stopping {arms} arms, which save themselves first")
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
