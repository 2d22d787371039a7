"""Every shipped task composes and can be made, without reading a row."""

from __future__ import annotations

import pytest

from distillkit import config
from distillkit.comparison.tasks.base import Task
from tests.unit.comparison.made_tasks import make_task

FILES = sorted(path.stem for path in (config.conf_dir() / "task").glob("*.yaml") if path.stem != "base")
GLUE = {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"}


def test_task_files_are_found() -> None:
    assert GLUE | {"classification", "pair", "regression", "choice", "imdb", "demo_imdb", "race"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_task_is_made_when_its_file_is_composed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)  # nothing is looked up
    task = make_task(name, train_rows=7)
    assert isinstance(task, Task) and task.train_rows == 7 and task.scored
    assert task.glue == (name in GLUE)
