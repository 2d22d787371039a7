"""Rows on disk: what was written is read, what does not fit its checksum is not."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from distillkit import rowstore
from distillkit.errors import StorageError
from distillkit.rowstore import HEAD_BYTES, IDENTITY, RowStore

ROW = bytes(range(200))


@pytest.fixture
def store(tmp_path: Path) -> RowStore:
    made = RowStore(tmp_path / "cache", {"key": 1})
    made.make(config_key="teacher.cache")
    return made


def write(store: RowStore, start: int, row: bytes = ROW, part: str = "0") -> None:
    store.write(part, start, memoryview(row))


def read(store: RowStore, start: int, size: int = len(ROW), part: str = "0") -> bytes | None:
    """The row, or None when it is not there."""
    row = bytearray(size)
    return bytes(row) if store.read(part, start, memoryview(row)) else None


def only_file(store: RowStore) -> Path:
    (file,) = store.folder.glob("*/*.rows")
    return file


def test_rows_come_back_when_written_in_any_order(store: RowStore) -> None:
    starts = [3 * (HEAD_BYTES + len(ROW)), 0, rowstore.SHARD_BYTES - 5, rowstore.SHARD_BYTES + 9000]
    for number, start in enumerate(starts):
        write(store, start, bytes([number]) * len(ROW))
    assert [read(store, start) for start in starts] == [bytes([number]) * len(ROW) for number in range(4)]
    assert read(store, HEAD_BYTES + len(ROW)) is None and read(store, 0, part="1") is None
    assert store.damaged == 0 and store.writable
    assert len(list(store.folder.glob("0/*.rows"))) == 2
    assert 0 < store.occupied() < 100_000 < store.free()


def flip_in_row(file: Path) -> None:
    flip(file, HEAD_BYTES + 100)


def flip_in_head(file: Path) -> None:
    flip(file, 12)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def truncate(file: Path) -> None:
    os.truncate(file, HEAD_BYTES + 20)


@pytest.mark.parametrize("damage", [flip_in_row, flip_in_head, truncate])
def test_row_is_told_and_rewritten_when_damaged(damage: Callable[[Path], None], store: RowStore) -> None:
    write(store, 0)
    damage(only_file(store))
    assert read(store, 0) is None and store.damaged == 1
    write(store, 0)
    assert read(store, 0) == ROW and store.damaged == 1


def test_row_is_not_used_when_of_another_key_part_or_place(store: RowStore, tmp_path: Path) -> None:
    write(store, 0)
    other = RowStore(tmp_path / "cache", {"key": 2})
    other.make(config_key="teacher.cache")
    assert other.key != store.key
    shutil.copytree(store.folder / "0", other.folder / "0")
    assert read(other, 0) is None and other.damaged == 1
    shutil.copytree(store.folder / "0", store.folder / "1")
    assert read(store, 0, part="1") is None
    only = store.folder / "0" / "000000.rows"
    only.write_bytes(bytes(64) + only.read_bytes())
    assert read(store, 64) is None and store.damaged == 2


def test_row_is_missing_and_not_damaged_when_its_writer_was_killed(
    store: RowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def killed_after_one(file: int, data: memoryview, offset: int) -> int:
        if done:
            raise KeyboardInterrupt
        done.append(offset)
        return written(file, data, offset)

    written = os.pwrite
    monkeypatch.setattr(os, "pwrite", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        write(store, 0)
    assert read(store, 0) is None and store.damaged == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, None])
def test_nothing_is_lost_when_a_row_cannot_be_written(
    number: int | None, store: RowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, data: memoryview, offset: int) -> int:
        if number is None:  # a disk that fills up in the middle of a row
            return len(data) // 2
        raise OSError(number, os.strerror(number))

    write(store, 0)
    monkeypatch.setattr(os, "pwrite", refuse)
    write(store, 1000)
    assert not store.writable
    assert read(store, 0) == ROW and read(store, 1000) is None and store.damaged == 0


def test_rows_are_stored_again_when_the_folder_was_deleted_meanwhile(store: RowStore) -> None:
    write(store, 0)
    shutil.rmtree(store.folder)
    assert read(store, 0) is None and store.damaged == 0
    write(store, 0)
    assert read(store, 0) == ROW and store.writable


def test_key_is_the_hash_of_the_identity_when_made_again(tmp_path: Path) -> None:
    keys = {RowStore(tmp_path, identity).key for identity in ({"a": 1, "b": 2}, {"b": 2, "a": 1})}
    store = RowStore(tmp_path, {"a": 1, "b": 2})
    store.make(config_key="teacher.cache")
    store.make(config_key="teacher.cache")
    assert keys == {store.key} and json.loads((store.folder / IDENTITY).read_text()) == {"a": 1, "b": 2}


def test_store_is_refused_when_its_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^teacher\.cache=.*/file: Not a directory"):
        RowStore(tmp_path / "file", {}).make(config_key="teacher.cache")
