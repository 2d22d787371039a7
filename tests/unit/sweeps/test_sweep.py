"""The loop of a sweep over real processes: tiny shell scripts in place of training."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distillkit.errors import Preempted, RunStateError
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.launchers import Job
from distillkit.sweeps.launchers.local import LocalLauncher
from distillkit.sweeps.live import View, as_text
from distillkit.sweeps.sweep import run_sweep

BEGIN = 'mkdir -p "$RUN"; echo run > "$RUN/config.yaml"; '
FINISH = 'echo \'{"time": 1, "event": "finish", "step": 5}\' > "$RUN/events.jsonl"; '
CHECKPOINT = 'printf "step,x\\n150,1\\n" > "$RUN/metrics.csv"; '
LIMITS = {"max_hours": None, "max_steps": None, "share_cache": False, "shared_pass": False, "metric": "valid/mlm_loss"}


class ShellLauncher(LocalLauncher):
    """Runs scripts by the arm's name; RUN is the run's folder, and $@ the command that trains."""

    def __init__(self, scripts: dict[str, str], jobs: int = 2) -> None:
        super().__init__(jobs)
        self.scripts, self.commands, self.most = scripts, dict[str, list[tuple[str, ...]]](), 0

    def start(self, job: Job) -> None:
        name = job.key.split("_")[1]
        self.commands.setdefault(name, []).append(job.command)
        script = ("bash", "-c", self.scripts[name], "bash", *job.command)
        super().start(job._replace(command=script, environment={"RUN": str(job.log.with_suffix(""))}))
        self.most = max(self.most, len(self._running))


def ledger_of(*names: str, seeds: tuple[int, ...] = (0,), **limits: object) -> Ledger:
    arms = [Arm(number, name, seed, []) for number, (seed, name) in enumerate((s, n) for s in seeds for n in names)]
    sweep = LIMITS | {"method": "grid", "vary": {}, "seeds": list(seeds)} | limits
    return Ledger("x", ["experiment=demo_distilbert"], None, sweep, {}, None, [], arms)


def statuses(ledger: Ledger) -> dict[str, str]:
    return {arm.name: arm.status for arm in ledger.arms}


def test_arms_end_apart_with_their_reasons_when_some_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = ShellLauncher({
        "good": BEGIN + FINISH, "code": "echo 'error: x: is wrong' >&2; exit 2", "bare": "exit 7",
        "killed": "kill -9 $$", "rank": "echo 'error: rank 1' >&2; kill -9 $$", "unfinished": BEGIN,
        "asked": BEGIN + "exit 143",
    })  # fmt: skip
    with pytest.raises(Preempted, match="1 arms were stopped"):
        run_sweep(tmp_path, ledger_of(*launcher.scripts), launcher)
    ledger = Ledger.read(tmp_path)
    assert {arm.name: (arm.status, arm.exit_code, arm.reason) for arm in ledger.arms} == {
        "good": ("done", 0, None), "code": ("failed", 2, "x: is wrong"),
        "bare": ("failed", 7, "ended with exit code 7"),
        "killed": ("failed", -9, "killed by signal 9 (SIGKILL), out of memory?"),
        "rank": ("failed", -9, "killed by signal 9 (SIGKILL) after: rank 1"),
        "unfinished": ("failed", 0, "ended before the run was finished"),
        "asked": ("preempted", 143, "stopped at step 0"),
    }  # fmt: skip
    assert launcher.most == 2 and all(arm.attempts == 1 and arm.ended for arm in ledger.arms)
    assert "killed by signal 9" in as_text(tmp_path, ledger)
    assert "[7/7]" not in capsys.readouterr().err  # the preempted one has not ended


def test_only_the_missing_arms_run_when_the_sweep_is_started_again(tmp_path: Path) -> None:
    names = ("good", "bad", "stopped")
    first = ShellLauncher({"good": BEGIN + FINISH, "bad": "exit 1", "stopped": BEGIN + "exit 143"})
    with pytest.raises(Preempted):
        run_sweep(tmp_path, ledger_of(*names), first)
    mended = {name: BEGIN + FINISH for name in names}
    second = ShellLauncher(mended)
    assert statuses(run_sweep(tmp_path, ledger_of(*names), second)) == {"good": "done", "bad": "failed",
                                                                      "stopped": "done"}  # fmt: skip
    assert list(second.commands) == ["stopped"] and "resume" in second.commands["stopped"][0]
    third = ShellLauncher(mended)
    ledger = run_sweep(tmp_path, ledger_of(*names), third, retry_failed=True)
    assert set(statuses(ledger).values()) == {"done"} and list(third.commands) == ["bad"]
    assert "train" in third.commands["bad"][0] and [arm.attempts for arm in ledger.arms] == [1, 2, 2]


def test_reason_is_of_the_last_process_when_an_arm_was_retried(tmp_path: Path) -> None:
    run_sweep(tmp_path, ledger_of("a"), ShellLauncher({"a": "echo 'error: first'; exit 1"}))
    ledger = run_sweep(tmp_path, ledger_of("a"), ShellLauncher({"a": "exit 3"}), retry_failed=True)
    assert ledger.arms[0].reason == "ended with exit code 3"


def test_running_entries_are_settled_when_the_sweep_was_killed(tmp_path: Path) -> None:
    ledger = ledger_of("finished", "begun", "unborn")
    for arm in ledger.arms:
        arm.status = "running"
        (tmp_path / arm.folder).mkdir(parents=True)
    (tmp_path / ledger.arms[2].folder / "cached").touch()
    for arm in ledger.arms[:2]:
        (tmp_path / arm.folder / "config.yaml").write_text("run")
    (tmp_path / ledger.arms[0].folder / "events.jsonl").write_text('{"time": 1, "event": "finish", "step": 5}\n')
    ledger.write(tmp_path)
    launcher = ShellLauncher({name: BEGIN + FINISH for name in statuses(ledger)})
    ended = run_sweep(tmp_path, ledger_of("finished", "begun", "unborn"), launcher)
    assert set(statuses(ended).values()) == {"done"}
    assert {name: commands[0][3] for name, commands in launcher.commands.items()} == {"begun": "resume",
                                                                                      "unborn": "train"}  # fmt: skip
    assert not (tmp_path / ledger.arms[2].folder / "cached").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_arms_are_stopped_and_kept_when_the_sweep_is_asked_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    if number == signal.SIGINT:  # ignored where the tests run in the background of a script
        signal.signal(number, signal.default_int_handler)
    save = BEGIN + "trap 'exit 143' TERM; touch \"$RUN/ready\"; while true; do sleep 0.05; done"
    launcher = ShellLauncher({"a": save, "b": save, "c": save})

    def ask() -> None:
        while len(list(tmp_path.glob("arms/*/ready"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Preempted, match="the same command continues them"):
        run_sweep(tmp_path, ledger_of("a", "b", "c"), launcher)
    assert statuses(Ledger.read(tmp_path)) == {"a": "preempted", "b": "preempted", "c": "queued"}
    assert not launcher._running


def test_no_arm_is_started_beyond_the_budget_when_one_is_set(tmp_path: Path) -> None:
    told = BEGIN + CHECKPOINT + FINISH
    launcher = ShellLauncher({name: told for name in "abc"}, jobs=1)
    ledger = run_sweep(tmp_path / "1", ledger_of("a", "b", "c", max_steps=449), launcher)  # 150 an arm
    assert statuses(ledger) == {"a": "done", "b": "done", "c": "queued"}
    ledger = run_sweep(tmp_path / "2", ledger_of("a", "b", max_steps=299), ShellLauncher({"a": told}))
    assert statuses(ledger) == {"a": "done", "b": "queued"}, "steps of an arm that runs count as well"
    ledger = run_sweep(tmp_path / "3", ledger_of("a", "b", max_hours=1e-9), ShellLauncher({"a": told}, jobs=1))
    assert statuses(ledger) == {"a": "done", "b": "queued"}


def test_sweep_is_refused_when_its_folder_holds_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run")
    with pytest.raises(RunStateError, match="holds a run"):
        run_sweep(tmp_path, ledger_of("a"), ShellLauncher({}))


@dataclass
class Guesses:
    """Asks for three arms and finds those whose metric exceeds 5 hopeless."""

    names: list[str] = field(default_factory=lambda: ["low", "high", "broken"])
    told: dict[str, float | None] = field(default_factory=dict)
    asked: int = 0

    def ask(self) -> Arm | None:
        if self.asked == len(self.names):
            return None
        self.asked += 1
        words = ["loss.alpha=-1"] if self.names[self.asked - 1] == "invalid" else []
        return Arm(self.asked - 1, self.names[self.asked - 1], 0, words)

    def tell(self, arm: Arm, value: float | None) -> None:
        self.told[arm.name] = value

    def report(self, arm: Arm, step: int, value: float) -> bool:
        return value > 5


def test_searcher_is_told_every_end_when_it_chooses_the_arms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = 'printf "step,valid/mlm_loss\\n5,%s\\n" {} > "$RUN/metrics.csv"; '
    launcher = ShellLauncher({
        "low": BEGIN + row.format(3) + FINISH, "broken": "exit 1",
        "high": BEGIN + row.format(9) + "trap 'exit 143' TERM; while true; do sleep 0.05; done",
    })  # fmt: skip
    searcher = Guesses(["low", "high", "broken", "invalid"])
    ledger = run_sweep(tmp_path, ledger_of(method="tpe", trials=4), launcher, search=lambda *_: searcher)
    assert statuses(ledger) == {"low": "done", "high": "pruned", "broken": "failed", "invalid": "failed"}
    assert searcher.told == {"low": 3.0, "high": 9.0, "broken": None, "invalid": None}
    assert ledger.arms[1].reason == "valid/mlm_loss 9 at step 5"
    assert capsys.readouterr().err.splitlines()[1].startswith("[1/4] "), "of those it will draw"
    assert "loss.alpha=-1" in str(ledger.arms[3].reason)
    again = Guesses([])
    run_sweep(tmp_path, ledger_of(method="tpe", trials=4), launcher, search=lambda *_: again)
    assert again.told == searcher.told, "a kill may have come between the ledger and the telling"


def test_view_shows_the_arms_that_run_when_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    ledger = ledger_of("first", "second", "third")
    for arm, status, text in zip(ledger.arms, ("done", "running", "queued"), ("4", "3", ""), strict=True):
        arm.status, folder = status, tmp_path / arm.folder  # type: ignore[assignment]
        if text:
            folder.mkdir(parents=True)
            (folder / "config.yaml").write_text("run")
            (folder / "events.jsonl").write_text('{"time": 1, "event": "start", "step": 0, "steps": 9}\n')
            (folder / "metrics.csv").write_text(f"step,valid/mlm_loss\n5,{text}\n")
    ledger.arms[0].seconds = 60
    with View(tmp_path, ledger) as view:
        view.show(jobs=1)
    shown = " ".join(capsys.readouterr().err.split())  # wrapped at the terminal's width
    assert "second, seed 0" in shown and "5/9" in shown and "3.0000" in shown
    assert "1 done, 1 running, 1 queued; best so far: first, seed 0 (4.0000); about 2 min 0 s left" in shown


def test_cache_is_shared_by_arms_with_a_teacher_when_asked_for(tmp_path: Path) -> None:
    launcher = ShellLauncher({"a": BEGIN + FINISH, "b": BEGIN + FINISH})
    ledger = ledger_of("a", "b", share_cache=True)
    ledger.arms[1].words = ["teacher=none", "student.init_from=demo", "teacher.path=null"]
    run_sweep(tmp_path, ledger, launcher)
    words = {name: " ".join(commands[0]) for name, commands in launcher.commands.items()}
    assert f"teacher.cache={tmp_path}/teacher_cache" in words["a"] and "teacher.cache" not in words["b"]


def test_wandb_groups_the_arms_of_one_sweep_when_they_are_logged(tmp_path: Path) -> None:
    groups = []
    for folder in (tmp_path / "one", tmp_path / "one", tmp_path / "other"):
        launcher = ShellLauncher({"a": "exit 1", "b": "exit 1"})
        ledger = ledger_of("a", "b")
        ledger.shared.append("logger=wandb")
        run_sweep(folder, ledger, launcher, retry_failed=True)
        words = [launcher.commands[name][0] for name in "ab"]
        assert "logger.wandb.name=000_a_seed_0" in words[0] and "logger.wandb.name=001_b_seed_0" in words[1]
        groups.append({word for own in words for word in own if word.startswith("logger.wandb.group=x-")})
    assert len(groups[0]) == 1 and groups[0] == groups[1] and groups[0].isdisjoint(groups[2])


def test_cores_are_divided_between_arms_and_their_ranks_when_several_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    launcher = ShellLauncher(dict.fromkeys("ab", BEGIN + FINISH + 'echo "$OMP_NUM_THREADS" > "$RUN.threads"'))
    ledger = ledger_of("a", "b")
    ledger.arms[1].words = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
    run_sweep(tmp_path, ledger, launcher)
    assert [path.read_text() for path in sorted(tmp_path.glob("arms/*.threads"))] == ["4\n", "2\n"]


def test_ledger_tells_of_running_arms_when_it_is_read_meanwhile(tmp_path: Path) -> None:
    seen = 'grep -c running "$RUN/../../sweep.json" > "$RUN.seen"; '
    run_sweep(tmp_path, ledger_of("a"), ShellLauncher({"a": BEGIN + FINISH + seen}))
    assert (tmp_path / "arms" / "000_a_seed_0.seen").read_text() == "1\n"
    assert json.loads((tmp_path / "sweep.json").read_text())["arms"][0]["status"] == "done"
