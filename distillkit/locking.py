"""Folders held by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distillkit.errors import Preempted, RunStateError, StorageError

LOCK = ".lock"
_HELD_HERE: set[Path] = set()
# type, whence, start, length and pid of the kernel's struct flock; other systems order them otherwise
_FLOCK = "hhqqi4x" if sys.platform == "linux" and sys.maxsize > 2**32 else None


class FolderLock:
    """The lock of a folder, on the file LOCK in it, which holds the holder's pid. A killed holder frees it at once.

    Args:
        folder: exists.
        key: the configuration key to name in an error.
        value: its value; the folder unless given.

    Raises:
        RunStateError: another process holds it; its pid is named.
        OSError: the file cannot be written, or its file system has no locks.
    """

    def __init__(self, folder: Path, *, key: str = "run.dir", value: object = None) -> None:
        self.folder = folder
        # lockf, not flock: a lock held by flock survives in forked data workers after a kill
        self._file = (folder / LOCK).open("a+")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # such as ENOLCK of a network file system
                self._file.close()
                raise
            self._file.seek(0)
            pid = self._file.read().strip()
            self._file.close()
            raise RunStateError(
                f"in use by process {pid}", key=key, value=value or folder, fix=f"wait for it, or choose another {key}"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()
        _HELD_HERE.add(folder.resolve())

    def release(self) -> None:
        """Lets go of the folder."""
        _HELD_HERE.discard(self.folder.resolve())
        self._file.close()


@contextlib.contextmanager
def workplace(folder: Path, *, begun: str, stopped: str) -> Iterator[None]:
    """A folder, made and held by this process for a block in which SIGTERM raises Preempted.

    Args:
        folder: run.dir of the work.
        begun: file in it that tells that the work was begun; without it a folder made here is removed.
        stopped: what Preempted says.

    Raises:
        RunStateError: another process holds it.
        StorageError: it cannot be written.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        lock = FolderLock(folder)
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}", key="run.dir", value=folder, fix="choose another run.dir"
        ) from error

    def stop(number: int, frame: Any) -> None:
        raise Preempted(stopped)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        lock.release()
        if made and not (folder / begun).exists():
            shutil.rmtree(folder)


def holder(folder: Path) -> int | None:
    """The pid of the process that holds a folder; None when none does.

    Args:
        folder: one that is locked by FolderLock, or not.
    """
    if folder.resolve() in _HELD_HERE:  # a lock is lost when its process closes the file, however often it is open
        return os.getpid()
    try:
        with (folder / LOCK).open() as lock:
            return _locker(lock)
    except (FileNotFoundError, PermissionError, ValueError):
        return None


def _locker(lock: IO[str]) -> int | None:
    """The pid of the process that has locked a file; None when none has. ValueError when it is not known yet."""
    if _FLOCK is None:
        try:
            fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # let go of at once, with the file
        except OSError:
            return int(lock.read())
        return None
    # only asks: a lock taken for an instant would refuse a resume that begins in it
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, question))
    if kind == fcntl.F_UNLCK:
        return None
    return pid if pid > 0 else int(lock.read())  # the kernel tells no pid of another machine or container
