"""What a unit's process tells of its failure."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from distillkit.comparison import processes
from distillkit.errors import DataError
from tests.faults.harness import Inputs
from tests.unit.comparison.test_units import planned


def fail(*args: Any) -> None:
    raise DataError("too short", key="task.*.max_length", value=3, fix="raise task.*.max_length")


def test_failure_names_the_task_when_its_key_is_of_any_task(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "run_unit", fail)
    unit = planned(tmp_path, inputs.teacher)
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=processes._work, args=(unit, tmp_path, 1, writer))
    process.start()
    process.join(60)
    said = ("error", "task.classification.max_length=3: too short; fix: raise task.classification.max_length")
    assert reader.poll() and reader.recv() == said
