"""Activities: silent until turned on, a line at once and again, one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pytorch_lightning import LightningModule

from distillkit import progress
from distillkit.training.callbacks import ProgressReport


@pytest.fixture(autouse=True)
def as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.05)
    yield
    progress._shown.update(spinner=False, lines=False)


def test_activity_prints_nothing_when_not_turned_on(capfd: pytest.CaptureFixture[str]) -> None:
    with progress.activity("tokenizing") as say:
        say("tokenizing: 3 of 4")
        time.sleep(0.12)
    assert capfd.readouterr() == ("", "")


def test_activity_prints_at_once_and_again_when_lines_are_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    progress.show(lines=True)
    with progress.activity("tokenizing") as say:
        assert capfd.readouterr() == ("", "tokenizing\n")
        say("tokenizing: 3 of 4")
        time.sleep(0.12)
    lines = capfd.readouterr().err.splitlines()
    assert lines and set(lines) == {"tokenizing: 3 of 4 (0 s)"}
    time.sleep(0.12)
    assert capfd.readouterr().err == "", "it goes on after its end"


def test_activity_takes_the_outer_ones_place_when_nested(capfd: pytest.CaptureFixture[str]) -> None:
    progress.show(lines=True)
    with progress.activity("writing the report"):
        with progress.activity("measuring latency"):
            time.sleep(0.12)
        assert "measuring latency (0 s)" in capfd.readouterr().err
    with progress.activity("next"):
        assert capfd.readouterr().err.splitlines()[-1] == "next"


def test_tables_are_wide_when_stdout_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    progress.results_console().rule()
    assert len(capfd.readouterr().out.rstrip("\n")) == 140


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7512, "2 h 5 min")]
)
def test_duration_is_said_as_a_person_does_when_rounded(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_time_left_follows_from_the_steps_of_the_session_when_a_run_was_resumed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    report, module = ProgressReport(), LightningModule()
    module.resumed_step = 10
    trainer: Any = SimpleNamespace(global_step=0, max_steps=40, is_global_zero=True)
    report.on_train_start(trainer, module)
    report._started -= 100
    trainer.global_step = 20
    report.on_train_end(trainer, module)
    assert capfd.readouterr().err.startswith("step 20/40  3 min 20 s left")


def test_training_says_that_it_compiles_before_the_first_step_when_it_does(capfd: pytest.CaptureFixture[str]) -> None:
    trainer: Any = SimpleNamespace(global_step=0, max_steps=40, is_global_zero=True)
    module = LightningModule()
    module.resumed_step = 3
    ProgressReport().on_train_start(trainer, module)
    assert capfd.readouterr().err == ""
    module.compiled = True
    ProgressReport().on_train_start(trainer, module)
    assert capfd.readouterr().err == "step 3/40  compiling the layers\n"
