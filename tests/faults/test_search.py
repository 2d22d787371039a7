"""Searches of real runs: hopeless arms are pruned, and a kill of the search loses and repeats nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from distillkit.locking import holder
from distillkit.sweeps.arms import STUDY, Ledger
from tests.faults.fixtures import Say, Start
from tests.faults.harness import Inputs, Recipe, Run

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.ci, pytest.mark.timeout(1800)]

RECIPE = Recipe(more=(
    "run.evaluation_batches=1", "trainer.limit_val_batches=1", "trainer.val_check_interval=3",
    "trainer.check_val_every_n_epoch=null",
))  # fmt: skip


def words(inputs: Inputs, *, trials: int, pruner: str, place: Path) -> list[str]:
    """Of a search whose arms validate 30 times."""
    return [
        "sweep", *RECIPE.words(inputs, every=10)[1:], "trainer.max_steps=90", "sweep=random", f"sweep.trials={trials}",
        f"sweep.pruner={pruner}", "optimizer.lr=tag(log,interval(1e-5,1e-2))", "launcher.jobs=2", f"run.dir={place}",
        *(f"loss.{name}={value}" for name, value in {"alpha": 1, "beta": 2, "gamma": 1, "temperature": 2}.items()),
    ]  # fmt: skip


def trials_of(place: Path) -> list[FrozenTrial]:
    """What the study's file tells."""
    storage = JournalStorage(JournalFileBackend(str(place / STUDY)))
    return optuna.load_study(study_name=None, storage=storage).trials


@pytest.mark.parametrize(("pruner", "trials"), [("median", 9), ("asha", 6)])
def test_search_has_its_trials_once_each_some_pruned_when_it_is_killed_and_continued(
    pruner: str, trials: int, inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    place = tmp_path / "sweep"
    typed = words(inputs, trials=trials, pruner=pruner, place=place)
    process = start(*typed)
    process.wait_until(lambda: (place / "sweep.json").is_file(), seconds=200)

    def in_its_midst() -> bool:
        ledger = Ledger.read(place)
        begun = any((place / arm.folder / "metrics.csv").is_file() for arm in ledger.with_status("running"))
        return begun and bool(ledger.with_status("pruned"))

    process.wait_until(in_its_midst, seconds=600)
    process.kill()
    left = Ledger.read(place)
    running, ended = left.with_status("running"), left.with_status("done", "pruned")
    assert running and len(ended) < trials, "nothing was killed"
    say(f"search {process.pid} killed with {len(running)} arms running, {len(ended)} of {trials} ended")
    again = start(*typed)
    assert again.wait(600) == 0, again.stderr
    ledger, study = Ledger.read(place), trials_of(place)
    assert [arm.number for arm in ledger.arms] == [trial.number for trial in study] == list(range(trials))
    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    assert [states[arm.status] for arm in ledger.arms] == [trial.state for trial in study]
    assert [arm.values for arm in ledger.arms] == [trial.params for trial in study]
    assert {(arm.number, arm.attempts) for arm in ended} <= {(arm.number, arm.attempts) for arm in ledger.arms}
    for arm, trial in zip(ledger.arms, study, strict=True):
        run = Run(place / arm.folder)
        assert holder(run.path) is None
        rows = {int(row["step"]): float(row["valid/mlm_loss"]) for row in run.figures() if "valid/mlm_loss" in row}
        assert trial.intermediate_values.items() <= rows.items(), "a continued arm's values are those it told before"
        assert (max(rows) == 90) == (arm.status == "done"), "a pruned arm has saved what it did, and no more"
        assert (run.path / "student").is_dir() == (arm.status == "done")
    shown(ledger, place, start)


def shown(ledger: Ledger, place: Path, start: Start) -> None:
    """Status and report tell the pruned arms as such."""
    pruned = ledger.with_status("pruned")
    counts = Counter(arm.status for arm in ledger.arms)
    assert all(arm.reason and arm.reason.startswith("valid/mlm_loss ") for arm in pruned)
    status = start("status", str(place)).succeed().stdout
    assert f"{counts['pruned']} pruned" in status and str(pruned[0].reason) in status and "failed" not in status
    facts = json.loads(start("report", str(place), "--json").succeed().stdout)
    assert facts["counts"] == counts
    assert [trial["status"] for trial in facts["search"]["trials"]] == [arm.status for arm in ledger.arms]
    assert str(pruned[0].reason) in (place / "sweep_report.md").read_text()
