"""Checkpoints are whole or absent: under kills, on full disks, and after damage."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from distillkit.errors import RunStateError, StorageError
from distillkit.export import export
from distillkit.training.checkpointing import (
    MANIFEST,
    STATE,
    DirectoryCheckpointIO,
    checkpoint_name,
    checkpoint_step,
    newest_good,
    verify,
)
from tests.faults.harness import make_bert, make_tokenizer

KILLS = 25


def checkpoint(step: int, size: int = 1000) -> dict[str, Any]:
    return {"global_step": step, "state_dict": {"weight": torch.full((size,), float(step))}}


def save(folder: Path, step: int, size: int = 1000) -> Path:
    path = folder / checkpoint_name(step)
    DirectoryCheckpointIO().save_checkpoint(checkpoint(step, size), path)
    return path


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest good checkpoint and what was said of those skipped."""
    skipped: list[str] = []
    return newest_good(folder, lambda error: skipped.append(str(error))), skipped


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_checkpoint_comes_back_when_saved(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    loaded = DirectoryCheckpointIO().load_checkpoint(path)
    torch.testing.assert_close(loaded, checkpoint(7), rtol=0, atol=0)
    assert json.loads((path / MANIFEST).read_text())["step"] == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000007"]


def test_checkpoint_names_sort_by_step_and_need_no_quotes_in_hydra() -> None:
    steps = [100, 9, 12_345_678, 0]
    names = sorted(checkpoint_name(step) for step in steps)
    assert [checkpoint_step(Path(name)) for name in names] == sorted(steps)
    assert not any("=" in name for name in names)


def test_checkpoint_is_replaced_when_its_step_is_saved_again(tmp_path: Path) -> None:
    flip_a_bit(save(tmp_path, 7) / STATE)
    verify(save(tmp_path, 7))
    assert newest(tmp_path) == (tmp_path / checkpoint_name(7), [])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, os.unlink])
@pytest.mark.parametrize("name", [STATE, MANIFEST])
def test_checkpoint_is_skipped_and_refused_when_it_is_damaged(tmp_path: Path, name: str, damage: Any) -> None:
    good, bad = save(tmp_path, 1), save(tmp_path, 2)
    damage(bad / name)
    path, skipped = newest(tmp_path)
    assert path == good
    assert len(skipped) == 1
    assert str(bad) in skipped[0]
    with pytest.raises(RunStateError, match=r"damaged|not a whole checkpoint"):
        DirectoryCheckpointIO().load_checkpoint(bad)


def test_newest_good_is_none_when_there_is_nothing_good(tmp_path: Path) -> None:
    assert newest(tmp_path) == (None, [])
    assert newest(tmp_path / "absent") == (None, [])
    truncate(save(tmp_path, 1) / STATE)
    path, skipped = newest(tmp_path)
    assert path is None
    assert len(skipped) == 1


def test_load_runs_no_code_when_the_file_holds_a_pickle_with_a_right_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    DirectoryCheckpointIO().save_checkpoint({"global_step": 1, "evil": Evil()}, tmp_path / checkpoint_name(1))
    with pytest.raises(Exception, match="Weights only"):
        DirectoryCheckpointIO().load_checkpoint(tmp_path / checkpoint_name(1))
    assert not (tmp_path / "executed").exists()


def _save_for_ever(folder: Path, last: int) -> None:
    """A victim: saves step after step and keeps the newest two."""
    torch.set_num_threads(1)
    while True:
        last += 1
        save(folder, last, size=100_000)
        for old in sorted(folder.glob("step_*"))[:-2]:
            DirectoryCheckpointIO().remove_checkpoint(old)


@pytest.mark.fault
def test_checkpoint_is_never_half_when_its_writer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.isdir("/dev/shm"):
        monkeypatch.setenv("TMPDIR", "/dev/shm")  # a save staged there would not be atomic
    draw, last, hits = random.Random(0), 0, 0
    for _ in range(KILLS):
        victim = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path, last))
        victim.start()
        time.sleep(draw.uniform(0.005, 0.06))
        victim.kill()
        victim.join()
        hits += any(p.name.startswith(".") for p in tmp_path.iterdir())
        path, skipped = newest(tmp_path)
        assert not skipped
        assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]
        if path is not None:
            weight = DirectoryCheckpointIO().load_checkpoint(path)["state_dict"]["weight"]
            assert weight.unique().tolist() == [checkpoint_step(path)]
        assert last <= (checkpoint_step(path) if path else 0)
        last = checkpoint_step(path) if path else 0
    assert hits > KILLS // 5, "too few kills hit a save for the test to show anything"
    assert last > 0


def _die_at(folder: Path, step: int, number: int) -> None:
    """Saves one step and prunes, and is gone before the given change of the file system."""
    changes = itertools.count()

    def hook(event: str, args: Any) -> None:
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and next(changes) == number:
            os._exit(9)

    sys.addaudithook(hook)
    save(folder, step)
    for old in sorted(folder.glob("step_*"))[:-1]:
        DirectoryCheckpointIO().remove_checkpoint(old)
    os._exit(0)


@pytest.mark.fault
@pytest.mark.parametrize("step", [1, 2], ids=["same_step", "next_step"])
def test_checkpoint_is_never_lost_when_its_writer_dies_between_any_two_changes(tmp_path: Path, step: int) -> None:
    for number in itertools.count():
        folder = tmp_path / str(number)
        old = save(folder, 1)
        victim = multiprocessing.get_context("fork").Process(target=_die_at, args=(folder, step, number))
        victim.start()
        victim.join()
        path, skipped = newest(folder)
        assert not skipped
        assert path in (old, folder / checkpoint_name(step))
        for whole in folder.glob("step_*"):
            verify(whole)
        assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]
        if victim.exitcode == 0:
            break
    assert path == folder / checkpoint_name(step)
    assert number > 5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; skipped where it cannot be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting needs more rights")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.fault
def test_save_says_what_is_missing_and_keeps_the_old_checkpoint_when_the_disk_is_full(small_disk: Path) -> None:
    old = save(small_disk, 1, size=100_000)
    with pytest.raises(StorageError, match=r"the disk is full \(needs more than \d+ MB, \d+ MB free\)") as caught:
        save(small_disk, 2, size=200_000)
    assert caught.value.exit_code == 4
    assert newest(small_disk) == (old, [])
    assert [p.name for p in small_disk.iterdir()] == [old.name]


@pytest.mark.fault
@pytest.mark.parametrize("step", [1, 2], ids=["same_step", "next_step"])
def test_save_keeps_the_old_checkpoint_when_a_file_may_not_grow(tmp_path: Path, step: int) -> None:
    old = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            save(tmp_path, step, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert newest(tmp_path) == (old, [])
    assert [p.name for p in tmp_path.iterdir()] == [old.name]


@pytest.mark.fault
def test_export_says_so_and_leaves_nothing_when_a_file_may_not_grow(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match="cannot be written: File too large"):
            export(make_bert(), make_tokenizer(), tmp_path / "student")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_save_lets_errors_of_its_own_through_when_they_are_not_about_storage(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="global_step"):
        DirectoryCheckpointIO().save_checkpoint({}, tmp_path / checkpoint_name(1))
