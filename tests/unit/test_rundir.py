"""A run's folder: one holder, nothing overwritten, nothing left behind by a run that never started."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from distillkit import locking
from distillkit.errors import DataError, Preempted, RunStateError, StorageError
from distillkit.locking import holder
from distillkit.rundir import CONFIG, ERRORS, EVENTS, METRICS, RunFolder, read_events, read_metrics


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def start(path: Path) -> RunFolder:
    folder = RunFolder(path, new=True)
    folder.write_config({"seed": 1}, ["seed=1"], {"corpus": "abc"})
    return folder


def _hold(path: Path, ready: Connection) -> None:
    folder = start(path)
    ready.send(os.getpid())
    signal.pause()
    folder.release()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[BaseProcess]:
    """Another process, which holds the run in tmp_path / "run"."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", there))
    process.start()
    here.recv()
    yield process
    process.kill()
    process.join()


@pytest.mark.parametrize("layout", [locking._FLOCK, None], ids=["asked", "tried"])
def test_holder_is_known_when_another_process_asks(
    layout: str | None, keeper: BaseProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "_FLOCK", layout)
    assert holder(tmp_path / "run") == keeper.pid
    keeper.kill()
    keeper.join()
    assert holder(tmp_path / "run") is None


def test_folder_is_no_ones_when_its_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", without)
    with pytest.raises(StorageError, match="No locks available"):
        RunFolder(tmp_path / "run", new=True)


@pytest.mark.skipif(locking._FLOCK is None, reason="the layout of struct flock is not known here")
def test_holder_takes_no_lock_when_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path / "run").release()
    monkeypatch.setattr(fcntl, "lockf", lambda *_: pytest.fail("a resume would be refused at this moment"))
    assert holder(tmp_path / "run") is None


def test_holder_is_nobody_when_the_lock_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    start(tmp_path / "run").release()
    monkeypatch.setattr(Path, "open", refuse)
    assert holder(tmp_path / "run") is None


@pytest.mark.parametrize("cut", ["", '{"time": 1, "event": "che', '{"time": 1, "event": {"a": 1}', "\x00\x00\x00"])
def test_events_go_on_when_a_kill_cut_a_line(cut: str, tmp_path: Path) -> None:
    with start(tmp_path / "run") as folder:
        folder.event("start", step=0)
        with (folder.path / EVENTS).open("a") as file:
            file.write(cut)
        folder.event("resume", step=6)
        folder.event("finish", step=9)
        assert [event["event"] for event in read_events(folder.path)] == ["start", "resume", "finish"]
        assert folder.finished_step == 9
        assert "\n\n" not in (folder.path / EVENTS).read_text()


def test_events_and_metrics_are_none_when_nothing_was_written(tmp_path: Path) -> None:
    assert read_events(tmp_path) == [] and read_metrics(tmp_path / METRICS) == []


def test_folder_is_refused_with_the_pid_while_held_and_free_at_once_when_the_holder_is_killed(tmp_path: Path) -> None:
    here, there = multiprocessing.Pipe()
    keeper = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path / "run", there))
    keeper.start()
    pid = here.recv()
    try:
        for new in (True, False):
            with pytest.raises(RunStateError, match=rf"run\.dir=\S+: in use by process {pid};"):
                RunFolder(tmp_path / "run", new=new)
    finally:
        os.kill(pid, signal.SIGKILL)
        keeper.join()
    with RunFolder(tmp_path / "run", new=False) as folder:
        assert folder.config == {"seed": 1}


def test_lock_stays_when_its_own_process_asks_who_holds_it(tmp_path: Path) -> None:
    with start(tmp_path / "run"):
        assert holder(tmp_path / "run") == os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                RunFolder(tmp_path / "run", new=False)
                os._exit(0)
            except RunStateError:
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7, "another process could take it"
    assert holder(tmp_path / "run") is None


def test_folder_is_refused_when_it_holds_a_run_and_names_resume(tmp_path: Path) -> None:
    start(tmp_path / "run").release()
    before = names(tmp_path / "run")
    with pytest.raises(RunStateError, match=r"holds a run already; fix: distillkit resume .*run$"):
        RunFolder(tmp_path / "run", new=True)
    assert names(tmp_path / "run") - {".lock"} == before - {".lock"}


def test_folder_is_refused_and_left_alone_when_it_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunStateError, match=r"not empty \(thesis\.tex\)"):
        RunFolder(tmp_path, new=True)
    assert names(tmp_path) == {"thesis.tex"}


@pytest.mark.parametrize("existed", [False, True])
def test_folder_holds_nothing_but_the_error_when_the_run_fails_before_it_starts(tmp_path: Path, existed: bool) -> None:
    path = tmp_path / "runs" / "a"
    if existed:
        path.mkdir(parents=True)
    with pytest.raises(DataError), RunFolder(path, new=True):
        raise DataError("the corpus is empty")
    assert names(path) == {ERRORS}
    assert "the corpus is empty" in (path / ERRORS).read_text()


def test_folder_can_be_taken_again_when_only_an_error_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError), RunFolder(tmp_path / "run", new=True):
        raise DataError("the corpus is empty")
    with start(tmp_path / "run") as folder:
        assert ERRORS not in names(folder.path)


def test_folder_and_its_new_parents_vanish_when_nothing_was_written(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "runs" / "a" / "b", new=True):
        pass
    assert names(tmp_path) == set()


def test_folder_blames_nobody_when_the_run_was_preempted(tmp_path: Path) -> None:
    with pytest.raises(Preempted), start(tmp_path / "run"):
        raise Preempted("stopped")
    assert ERRORS not in names(tmp_path / "run")


def test_folder_is_refused_when_resume_finds_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunStateError, match="not a run's folder"):
            RunFolder(path, new=False)
    assert names(tmp_path) == set()


def test_folder_is_a_storage_error_when_it_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"run\.dir=\S+: cannot be written") as caught:
        RunFolder(tmp_path / "file" / "run", new=True)
    assert caught.value.exit_code == 4


def test_folder_is_neither_locked_nor_written_when_held_by_another_rank(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", new=True, held=False) as folder:
        folder.write_config({}, [], {})
        folder.event("start", step=0)
    assert names(tmp_path) == set()


def test_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    with start(tmp_path / "run") as folder:
        assert folder.config == {"seed": 1}
        assert folder.facts == {"corpus": "abc", "config": {"seed": 1}}
    assert CONFIG in names(tmp_path / "run")


def test_commands_are_those_of_train_and_of_each_resume_with_words_when_events_tell(tmp_path: Path) -> None:
    with start(tmp_path / "run") as folder:
        assert folder.commands == [["seed=1"]]
        folder.event("start", overrides=[])
        folder.event("resume", overrides=["trainer.max_steps=9"])
        folder.event("resume", overrides=[])
        assert folder.commands == [["seed=1"], ["trainer.max_steps=9"]]


def test_finished_step_is_that_of_the_last_finish_when_events_tell_a_story(tmp_path: Path) -> None:
    with start(tmp_path / "run") as folder:
        story = []
        for event, step in (("start", 0), ("checkpoint", 5), ("finish", 5), ("resume", 5), ("finish", 9)):
            folder.event(event, step=step)
            story.append(folder.finished_step)
        assert story == [None, None, 5, None, 9]
        with (folder.path / EVENTS).open("a") as file:
            file.write('{"time": 1, "event": "resu')  # cut off by a kill
        assert folder.finished_step == 9


def test_reader_sees_a_run_that_is_held_and_leaves_no_trace_when_it_looks(tmp_path: Path) -> None:
    with start(tmp_path / "run") as holder:
        holder.event("start", step=0)
        with (tmp_path / "run" / EVENTS).open("a") as file:
            file.write('{"time": 1, "event": "finish", "st')
        before = names(tmp_path / "run")
        reader = RunFolder(tmp_path / "run", new=False, held=False)
        assert reader.overrides == ["seed=1"] and reader.evaluation == {} and reader.finished_step is None
        assert names(tmp_path / "run") == before
    with pytest.raises(RunStateError, match="not a run's folder"):
        RunFolder(tmp_path / "nowhere", new=False, held=False)
