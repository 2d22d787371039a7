"""Fixtures over the harness, for every test that drives the command line."""

from __future__ import annotations

import logging
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from distillkit import cli
from tests.faults.harness import CliProcess, Inputs, Recipe, Run, make_inputs

Start = Callable[..., CliProcess]
Reference = Callable[[Recipe], Callable[[], Run]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny teacher and a corpus of five to six optimizer steps of 12 rows. Not to be changed."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def start(inputs: Inputs, tmp_path: Path) -> Iterator[Start]:
    """start(*words): the command as a process of its own, ended with the test."""
    processes: list[CliProcess] = []

    def begin(*words: str, **options: Any) -> CliProcess:
        log = tmp_path / "processes" / str(len(processes))
        processes.append(CliProcess(*words, **({"inputs": inputs, "log": log} | options)))
        return processes[-1]

    yield begin
    for process in processes:
        process.close()


@pytest.fixture(scope="session")
def reference(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """reference(recipe): starts the uninterrupted run, once a session; what it returns waits for its end."""
    folder = tmp_path_factory.mktemp("references")
    started: dict[Recipe, tuple[CliProcess, Run]] = {}

    def begin(recipe: Recipe) -> Callable[[], Run]:
        if recipe not in started:
            run = Run(folder / str(len(started)))
            words = recipe.words(inputs, every=5)
            log = folder / "logs" / run.path.name
            started[recipe] = CliProcess(*words, f"run.dir={run.path}", inputs=inputs, log=log), run

        def wait() -> Run:
            process, run = started[recipe]
            process.succeed()
            return run

        return wait

    yield begin
    for process, _ in started.values():
        process.close()


@pytest.fixture
def call(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """call(*words): the command inside this process, which saves the imports; one thread, in an empty folder."""
    folder, threads, level = tmp_path / "cwd", torch.get_num_threads(), logging.root.manager.disable
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in inputs.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    torch.set_num_threads(1)
    disable_progress_bar()  # the command does so through the environment, which is read at the import

    def run(*words: str) -> Result:
        capfd.readouterr()
        code = cli.main([*words])
        return Result(code, *capfd.readouterr())

    with warnings.catch_warnings():
        yield run
    torch.set_num_threads(threads)
    logging.disable(level)
    os.environ.pop("DISTILLKIT_RUN_DIR", None)


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Say:
    """Prints past pytest's capture: where and when a process was killed belongs into every log."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def print_now(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n    {text}", end=" ", flush=True)

    return print_now


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB; mounting takes root's rights."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a file system here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)
