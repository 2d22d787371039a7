"""Which arms share a process, and what it is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillkit.sweeps.definition import plan, settled
from distillkit.sweeps.jobs import Jobs
from distillkit.sweeps.together import Member, read_ended, write_members

WORDS = ["experiment=demo_distilbert", "loss.alpha=1,2,3", "data.batch_size=4,8", "seed=0,1"]


@pytest.mark.parametrize(("shared", "expected"), [("true", ["2", "3"]), ("2", ["2"]), ("false", [])])
def test_arms_of_equal_batches_and_seed_share_a_process_when_asked_to(
    shared: str, expected: list[str], tmp_path: Path
) -> None:
    folder, ledger = plan([*WORDS, f"sweep.shared_pass={shared}", f"run.dir={tmp_path}"], None)
    jobs = Jobs(folder, ledger)
    (first, cfg), *others = [(arm, settled(ledger, arm, jobs.path(arm))) for arm in ledger.arms]
    partners = jobs.partners(cfg, others)
    assert [arm.name for arm in partners] == [f"alpha={alpha},batch_size=4" for alpha in expected]
    assert {arm.seed for arm in partners} <= {first.seed}


def test_process_of_several_arms_has_their_words_and_logs_when_made(tmp_path: Path) -> None:
    folder, ledger = plan([*WORDS, "sweep.shared_pass=true", f"run.dir={tmp_path}"], None)
    jobs, arms = Jobs(folder, ledger), ledger.arms[:2]
    work = jobs.make(arms, [settled(ledger, arm, jobs.path(arm)) for arm in arms])
    assert work.members is not None and work.job.command[-2:] == ("--together", str(work.members))
    members = [Member(**told) for told in json.loads(work.members.read_text())]
    assert [Path(member.folder) for member in members] == [jobs.path(arm) for arm in arms]
    assert all(f"run.dir={member.folder}" in member.words for member in members)
    assert [Path(member.log) for member in members] == [jobs.log(arm) for arm in arms]


def test_ends_of_an_earlier_process_are_forgotten_when_its_arms_start_again(tmp_path: Path) -> None:
    file = tmp_path / "together.json"
    (tmp_path / "together.ended").write_text('{"a": 3}')
    assert read_ended(file) == {"a": 3}
    write_members(file, [])
    assert read_ended(file) == {}
