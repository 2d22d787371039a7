"""What a sweep is said to take before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillkit import inspection
from distillkit.sweeps.definition import plan
from distillkit.sweeps.estimate import as_text, estimate

WORDS = ["experiment=demo_distilbert", "loss.alpha=1,2,3,4,5", "trainer.max_steps=10"]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """run.threads of the probes; each arm takes 10 s in training, 4 of which are the teacher's, and 5 in evaluation."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    seen: list[int | None] = []

    def inspect(cfg: dict[str, Any]) -> dict[str, Any]:
        seen.append(cfg["run"]["threads"])
        phases = {"teacher": 0.4, "forward": 0.6}
        return {"expected": {"out_of_memory": False, "train_seconds": 10.0, "seconds_per_step": 1.0,
                             "evaluation_seconds": 5.0, "phases": phases}}  # fmt: skip

    monkeypatch.setattr(inspection, "inspect", inspect)
    return seen


@pytest.mark.parametrize(
    ("more", "processes", "seconds"),
    [
        ([], 5, 5 * 15),
        (["launcher.jobs=2"], 5, 3 * 15),  # two slots: three arms in one of them
        (["sweep.shared_pass=true"], 2, 5 * 15 - 3 * 4),  # four in a process, one alone
        (["sweep.shared_pass=2", "launcher.jobs=2"], 3, 26 + 15),
    ],
)
def test_time_counts_slots_and_one_teacher_a_process_when_estimated(
    more: list[str], processes: int, seconds: float, threads: list[int | None], tmp_path: Path
) -> None:
    facts = estimate(*plan([*WORDS, *more, f"run.dir={tmp_path}"], None), measure=True)
    assert (facts["processes"], facts["seconds"], facts["steps"]) == (processes, pytest.approx(seconds), 50)
    assert ("share their teacher's pass" in as_text(facts)) == ("shared_pass" in str(more))
    assert threads == [4 if "launcher.jobs=2" in more else None], "measured once, with the threads of an arm"


def test_estimate_says_what_it_does_not_know_when_arms_read_a_cache_or_are_drawn(
    threads: list[int | None], tmp_path: Path
) -> None:
    facts = estimate(*plan([*WORDS, "sweep.share_cache=true", f"run.dir={tmp_path}"], None), measure=True)
    assert "at most: what arms will read from the shared cache is not known yet" in as_text(facts)
    search = ["experiment=demo_distilbert", "sweep=tpe", f"run.dir={tmp_path / 'search'}"]
    assert "20 trials, which the search draws as it goes" in as_text(estimate(*plan(search, None), measure=True))
