"""Rows of bytes on disk under a key, each with its own checksum; any number of processes read and write at once.

No lock is needed, because a key names all that decides a row: whoever writes a row writes the same bytes. A row counts
as there when its head, which is written after its bytes, fits them; anything else (a hole, a write cut off by a kill, a
flipped bit, a truncated file, a row of another key or place) is told by the checksum and not used. Files are read and
written by position instead of mapped: a map of a file that is truncated, or on a full disk, kills the process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from distillkit.errors import StorageError
from distillkit.storage import write_text

IDENTITY = "key.json"
_HEAD = struct.Struct("<8sQ")
_MARK = b"distill1"
HEAD_BYTES = _HEAD.size
SHARD_BYTES = 256 * 2**20
"""A file holds the rows that begin in so many bytes; it is sparse where rows are missing."""


class RowStore:
    """The rows of one key.

    Args:
        folder: of all keys; need not exist.
        identity: all that decides the bytes of a row but its address; plain values. The key is its hash.

    Attributes:
        key: 32 hex digits, the name of its folder.
        folder: of this key.
        damaged: how many rows were read that were there but did not fit their checksum.
        writable: False after the first write that failed; nothing is written then.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True, indent=1)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.folder = Path(folder) / self.key
        self.damaged, self.writable = 0, True
        self._identity, self._seeds = text, dict[str, int]()

    def make(self, *, config_key: str) -> None:
        """Makes the folder, with the identity for people to read.

        Args:
            config_key: to blame.

        Raises:
            StorageError: it cannot be written.
        """
        path = self.folder / IDENTITY
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_text(path, self._identity)
        except (OSError, StorageError) as error:
            if path.exists():  # another process was quicker
                return
            reason = (error.strerror if isinstance(error, OSError) else error.problem) or str(error)
            raise StorageError(reason, key=config_key, value=self.folder.parent, fix="name another folder") from error

    def read(self, part: str, start: int, row: memoryview) -> bool:
        """Fills `row` with the bytes stored at a place.

        Args:
            part: a name within the key.
            start: of the row in its part, in bytes; heads are counted.
            row: its length decides how much is read; holds anything when it is not there.

        Returns:
            Whether it was there, whole.
        """
        path, offset = self._place(part, start)
        try:
            with _opened(path, os.O_RDONLY) as file:
                head = os.pread(file, HEAD_BYTES, offset)
                if not head.strip(b"\0"):
                    return False
                if os.preadv(file, [row], offset + HEAD_BYTES) == len(row) and head == self._head(part, start, row):
                    return True
        except FileNotFoundError:
            return False
        except OSError:  # a disk that cannot read it has damaged it
            pass
        self.damaged += 1
        return False

    def write(self, part: str, start: int, row: memoryview) -> None:
        """Stores a row; one that fails, on a full disk for one, leaves it missing and ends all writing."""
        path, offset = self._place(part, start)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _opened(path, os.O_WRONLY | os.O_CREAT) as file:
                if os.pwrite(file, row, offset + HEAD_BYTES) == len(row):
                    os.pwrite(file, self._head(part, start, row), offset)
                else:
                    self.writable = False
        except OSError:
            self.writable = False

    def occupied(self) -> int:
        """Bytes that the key takes on the disk."""
        return sum(file.stat().st_blocks * 512 for file in self.folder.glob("**/*") if file.is_file())

    def free(self) -> int:
        """Bytes that are free on its disk."""
        return shutil.disk_usage(next(p for p in (self.folder, *self.folder.resolve().parents) if p.exists())).free

    def _place(self, part: str, start: int) -> tuple[Path, int]:
        shard, offset = divmod(start, SHARD_BYTES)
        return self.folder / part / f"{shard:06d}.rows", offset

    def _head(self, part: str, start: int, row: memoryview) -> bytes:
        if part not in self._seeds:
            self._seeds[part] = xxhash.xxh3_64_intdigest(f"{self.key} {part}".encode())
        return _HEAD.pack(_MARK, xxhash.xxh3_64_intdigest(row, seed=self._seeds[part] ^ start))


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)
