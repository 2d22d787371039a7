"""Searches: what is drawn, what a restart finds, what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from distillkit import config
from distillkit.errors import ConfigError, RunStateError
from distillkit.sweeps.arms import Arm
from distillkit.sweeps.search import STUDY, OptunaSearcher

VARY = {"loss.alpha": "interval(0,10)", "loss.temperature": "tag(log,interval(1,8))", "student.layers": "2,4"}


def _searcher(folder: Path, **given: Any) -> OptunaSearcher:
    return OptunaSearcher(folder, **{"vary": VARY, "method": "random", "trials": 6, "seed": 3} | given)


def _value(arm: Arm) -> float:
    return (arm.values["loss.alpha"] - 3) ** 2 + arm.values["loss.temperature"]


def _all(searcher: OptunaSearcher) -> list[Arm]:
    arms = []
    while arm := searcher.ask():
        searcher.tell(arm, _value(arm))
        arms.append(arm)
    return arms


def _trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / STUDY)))
    return optuna.load_study(study_name=None, storage=storage).trials


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"method": "bayes"}, "sweep.method"),
        ({"trials": None}, "sweep.trials"),
        ({"pruner": "hyperband"}, "sweep.pruner"),
        ({"vary": {}}, "sweep.vary"),
    ],
)
def test_search_is_refused_when_a_key_is_wrong(tmp_path: Path, given: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}="):
        _searcher(tmp_path, **given)
    assert not any(tmp_path.iterdir())


def test_arms_hold_words_and_values_within_the_space_when_asked(tmp_path: Path) -> None:
    arms = _all(_searcher(tmp_path))
    assert [arm.number for arm in arms] == list(range(6)) and {arm.seed for arm in arms} == {3}
    for arm in arms:
        assert arm.words == [f"{key}={value!r}" for key, value in arm.values.items()]
        assert 0 <= arm.values["loss.alpha"] <= 10 and 1 <= arm.values["loss.temperature"] <= 8
        assert arm.values["student.layers"] in (2, 4) and type(arm.values["student.layers"]) is int
        assert arm.name.startswith(f"alpha={arm.values['loss.alpha']:.4g},temperature=")
    assert len({arm.name for arm in arms}) == 6


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_arms_are_the_same_when_the_search_is_begun_anew_at_every_trial(tmp_path: Path, method: str) -> None:
    (once := tmp_path / "once").mkdir(), (often := tmp_path / "often").mkdir()
    whole = _all(_searcher(once, method=method, trials=16))
    parts: list[Arm] = []
    for _ in range(16):
        searcher = _searcher(often, method=method, trials=16, planned=range(len(parts)))
        parts.append(arm := searcher.ask())  # type: ignore[arg-type]
        searcher.tell(arm, _value(arm))  # type: ignore[arg-type]
    assert [arm.values for arm in parts] == [arm.values for arm in whole]
    assert _searcher(often, method=method, trials=16, planned=range(16)).ask() is None


def test_random_arms_are_the_same_when_several_run_at_once(tmp_path: Path) -> None:
    (one := tmp_path / "one").mkdir(), (many := tmp_path / "many").mkdir()
    searcher = _searcher(many)
    together = [searcher.ask() for _ in range(6)]
    assert [arm.values for arm in together if arm] == [arm.values for arm in _all(_searcher(one))]


def test_tpe_differs_from_random_and_looks_near_the_best_when_it_has_seen_some(tmp_path: Path) -> None:
    (guided := tmp_path / "guided").mkdir(), (blind := tmp_path / "blind").mkdir()
    best = [_value(arm) for arm in _all(_searcher(guided, method="tpe", trials=40))[20:]]
    rest = [_value(arm) for arm in _all(_searcher(blind, trials=40))[20:]]
    assert sum(best) < sum(rest)


def test_trial_is_given_out_again_when_the_ledger_lacks_its_arm(tmp_path: Path) -> None:
    first = _searcher(tmp_path).ask()
    again = _searcher(tmp_path).ask()
    assert again == first and len(_trials(tmp_path)) == 1


def test_trial_draws_the_rest_alike_when_killed_between_two_draws(tmp_path: Path) -> None:
    (whole := tmp_path / "whole").mkdir(), (torn := tmp_path / "torn").mkdir()
    arm = _searcher(whole).ask()
    lines = (whole / STUDY).read_bytes().splitlines(keepends=True)
    drawn = [number for number, line in enumerate(lines) if b'"param_name":"loss.alpha"' in line]
    (torn / STUDY).write_bytes(b"".join(lines[: drawn[0] + 1]))
    assert _searcher(torn).ask() == arm


def test_study_counts_a_trial_once_when_it_is_told_twice(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    arm = searcher.ask()
    assert arm
    searcher.tell(arm, 2.0)
    _searcher(tmp_path, planned=[0]).tell(arm, 2.0)
    (trial,) = _trials(tmp_path)
    assert trial.state == TrialState.COMPLETE and trial.value == 2.0


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_trial_fails_when_the_arm_has_no_finite_value(tmp_path: Path, value: float | None) -> None:
    searcher = _searcher(tmp_path)
    arm = searcher.ask()
    assert arm
    searcher.tell(arm, value)
    assert [trial.state for trial in _trials(tmp_path)] == [TrialState.FAIL]


@pytest.mark.parametrize(("pruner", "at_least"), [("median", 6), ("asha", 3)])
def test_hopeless_arm_is_pruned_when_others_did_better_at_the_step(tmp_path: Path, pruner: str, at_least: int) -> None:
    searcher = _searcher(tmp_path, pruner=pruner, trials=at_least + 2)
    for _ in range(at_least):
        good = searcher.ask()
        assert good and not any([searcher.report(good, step, 1.0 / step) for step in (1, 2, 4, 8)])
        searcher.tell(good, 0.1)
    bad = searcher.ask()
    assert bad and any([searcher.report(bad, step, 50.0) for step in (1, 2, 4, 8)])
    bad.status = "pruned"
    searcher.tell(bad, None)
    assert _trials(tmp_path)[-1].state == TrialState.PRUNED
    assert searcher.report(bad, 9, 50.0), "killed before the ledger knew: it is to be stopped again"


def test_nothing_is_pruned_when_no_pruner_is_asked_for(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path, trials=9)
    for arm in iter(searcher.ask, None):
        assert not searcher.report(arm, 1, float(arm.number))
        searcher.tell(arm, float(arm.number))


def test_report_counts_a_step_once_when_a_continued_arm_tells_it_again(tmp_path: Path) -> None:
    arm = (searcher := _searcher(tmp_path)).ask()
    assert arm
    searcher.report(arm, 10, 1.0)
    _searcher(tmp_path, planned=[0]).report(arm, 10, 5.0)
    assert _trials(tmp_path)[0].intermediate_values == {10: 1.0}


@pytest.mark.filterwarnings("error")
def test_study_is_whole_when_its_last_line_is_torn(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path)
    arm = searcher.ask()
    assert arm
    searcher.tell(arm, 1.0)
    journal = tmp_path / STUDY
    whole = journal.read_bytes()
    (tmp_path / f"{STUDY}.lock").symlink_to(journal)
    for cut in (1, 5, 20):
        journal.write_bytes(whole[:-cut])  # of the line that tells the value
        began = time.monotonic()
        restarted = _searcher(tmp_path, planned=[0])
        restarted.tell(arm, 1.0)
        other = restarted.ask()
        assert other and other.number == 1 and time.monotonic() - began < 20
        restarted.tell(other, 2.0)
        assert [trial.value for trial in _trials(tmp_path)] == [1.0, 2.0]
        journal.unlink()


def test_study_is_refused_in_one_line_when_damaged_or_gone(tmp_path: Path) -> None:
    _all(_searcher(tmp_path))
    lines = (tmp_path / STUDY).read_bytes().splitlines(keepends=True)
    (tmp_path / STUDY).write_bytes(b"".join([*lines[:3], b"half a li\n", *lines[4:]]))
    with pytest.raises(RunStateError, match=STUDY):
        _searcher(tmp_path)
    (tmp_path / STUDY).unlink()
    with pytest.raises(RunStateError, match="lacks arms"):
        _searcher(tmp_path, planned=range(6))


SEARCH = """
import json, pathlib, sys, time
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.search import OptunaSearcher
folder = pathlib.Path(sys.argv[1])
try:
    ledger = Ledger.read(folder)
except FileNotFoundError:
    ledger = Ledger("tpe", [], None, {}, {}, None, [])
vary = {"loss.alpha": "interval(0,10)", "loss.beta": "interval(0,10)"}
search = OptunaSearcher(folder, vary, method="tpe", trials=20, seed=0, planned=[arm.number for arm in ledger.arms])
def value(arm):
    return (arm.values["loss.alpha"] - 3) ** 2
for arm in ledger.with_status("done"):
    search.tell(arm, value(arm))
while True:
    arm = next(iter(ledger.with_status("running")), None)
    if arm is None:
        arm = search.ask()
        if arm is None:
            break
        arm.status = "running"
        ledger.arms.append(arm)
        ledger.write(folder)
    with (folder / "ran").open("a") as ran:
        ran.write(json.dumps([arm.number, arm.values]) + "\\n")
    time.sleep(float(sys.argv[2]))
    arm.status = "done"
    ledger.write(folder)
    search.tell(arm, value(arm))
"""


def _ran(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for line in (folder / "ran").read_text().splitlines()]


def test_search_ends_with_20_trials_when_killed_at_trial_9_and_continued(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SEARCH, str(tmp_path)]
    process = subprocess.Popen([*command, "0.1"])
    while not (tmp_path / "ran").exists() or len(_ran(tmp_path)) < 9:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = _ran(tmp_path)
    assert len(before) < 20
    subprocess.run([*command, "0"], check=True)
    trials = _trials(tmp_path)
    assert [trial.number for trial in trials] == list(range(20))
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    after = _ran(tmp_path)
    assert after[: len(before)] == before
    assert [values for number, values in after if number == before[-1][0]] == [before[-1][1]] * (
        2 if after[len(before)][0] == before[-1][0] else 1
    ), "the trial that ran goes on with what it had drawn"
    often = Counter(number for number, _ in after)
    assert set(often) == set(range(20)) and sum(often.values()) <= 21, "no finished trial again"
    (other := tmp_path / "whole").mkdir()
    vary = {"loss.alpha": "interval(0,10)", "loss.beta": "interval(0,10)"}
    search = OptunaSearcher(other, vary, method="tpe", trials=20, seed=0)
    for arm in iter(search.ask, None):
        search.tell(arm, (arm.values["loss.alpha"] - 3) ** 2)
    assert [trial.params for trial in _trials(other)] == [trial.params for trial in trials]


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_shipped_search_opens_with_20_trials_of_the_weights_when_chosen(tmp_path: Path, name: str) -> None:
    sweep = yaml.safe_load((config.conf_dir() / "sweep" / f"{name}.yaml").read_text())
    searcher = OptunaSearcher(tmp_path, sweep["vary"], method=sweep["method"], trials=sweep["trials"], seed=0,
                              pruner=sweep.get("pruner"))  # fmt: skip
    arm = searcher.ask()
    assert arm and sweep["trials"] == 20
    assert set(arm.values) == {"loss.alpha", "loss.beta", "loss.gamma", "loss.temperature"}
    cfg, _ = config.load("train", arm.words)
    assert cfg.loss.alpha == arm.values["loss.alpha"]
