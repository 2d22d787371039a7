"""Inputs shared by the fault tests, and a printer that pytest does not swallow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.harness import CliProcess, Inputs, make_inputs

Start = Callable[..., CliProcess]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny teacher and a corpus of five to seven optimizer steps of 12 rows."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def start(inputs: Inputs, tmp_path: Path) -> Iterator[Start]:
    """start(*words): the command as a process, ended with the test; its output is in tmp_path."""
    processes: list[CliProcess] = []

    def begin(*words: str, inputs: Inputs = inputs, **popen: object) -> CliProcess:
        process = CliProcess(*words, inputs=inputs, log=tmp_path / f"process{len(processes)}", **popen)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.close()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints past pytest's capture: where and when a process was killed belongs into every log."""

    def print_now(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end=" ", flush=True)

    return print_now
