"""The verb report, on a run as train leaves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distillkit.evaluation import efficiency
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs

SHORT = ["data.max_length=48", "data.batch_size=8", "trainer.log_every_n_steps=1", "checkpoint.every_n_steps=1"]


def test_report_is_printed_and_written_when_a_run_was_trained_and_continued(
    call: Call, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficiency, "memory_of", lambda path: {"peak_memory_mb": 1.0})  # takes a process a model
    run = tmp_path / "run"
    assert call("train", *inputs.words(), *SHORT, "trainer.max_steps=2", f"run.dir={run}").code == 0
    assert call("resume", str(run), "trainer.max_steps=3").code == 0
    result = call("report", str(run), f"output={tmp_path / 'page'}", "--json")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    assert printed == json.loads((tmp_path / "page" / "report.json").read_text())
    facts = printed["runs"]["run"]
    assert (facts["state"], facts["step"], facts["sessions"], facts["tokens"]) == ("finished", 3, 2, 3 * 8 * 48)
    trained, *resumed = facts["commands"]
    assert "data=text" in trained and trained.endswith("trainer.max_steps=2")
    assert resumed == ["distillkit resume RUN_DIR trainer.max_steps=3"]
    measured = json.loads((run / "evaluation.json").read_text())["student"]
    assert printed["models"]["run"]["mlm_loss"] == measured["mlm_loss"]
    assert 0 < printed["models"]["run"]["latency_ms"] <= printed["models"]["run"]["latency_p95_ms"]
    result = call("report", str(run))
    assert result.code == 0 and f"{measured['mlm_loss']:.3f}" in result.out and str(run / "report.html") in result.out
    assert (run / "report.html").is_file() and (run / "figures" / "size_dark.png").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [("report", "RUN_DIR="), ("report nowhere", "RUN_DIR=nowhere: not a run's folder"), ("report --jsonn", "--jsonn")],
)
def test_report_is_refused_in_one_line_when_there_is_no_run(
    words: str, expected: str, call: Call, tmp_path: Path
) -> None:
    result = call(*words.split())
    (line,) = result.err.splitlines()
    assert result.code == 2 and result.out == "" and expected in line
    assert list((tmp_path / "cwd").iterdir()) == []
