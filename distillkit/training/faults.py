"""Faults of the machine among what training raises."""

from __future__ import annotations

import errno
import traceback

import torch

from distillkit.errors import StorageError

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def as_fault(error: Exception, workers: int) -> Exception:
    """A process that died or a file that cannot be read or written, as what it is; any other error as it came.

    Args:
        error: raised by Lightning's fit.
        workers: data workers; a broken pipe is theirs only if there are any.

    Returns:
        StorageError, or `error` itself.
    """
    lines, fix = str(error).strip().splitlines(), "distillkit resume RUN_DIR"
    if "DataLoader worker (pid" in str(error) or (workers and _lost_a_process(error)):
        return StorageError(f"a data worker died: {' '.join(lines[:1])}", fix=fix)
    if isinstance(error, torch.distributed.DistError) or "gloo/transport/" in str(error):
        return StorageError(
            f"another process of the run has ended, or cannot be reached: {' '.join(lines[:1])}", fix=fix
        )
    if isinstance(error, OSError):
        what = "cannot be written" if error.errno in _UNWRITABLE else "reading or writing failed"
        reason = error.strerror or " ".join(lines[-1:])  # an error in a worker comes as text, its cause last
        key = None if error.filename is None else "file"
        return StorageError(f"{what}: {reason}", key=key, value=error.filename, fix=fix)
    return error


def _lost_a_process(error: Exception) -> bool:
    """Whether a pipe between processes broke, or a socket of theirs has gone, rather than a file or a connection."""
    if not isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        return False
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    # the thread that pins memory passes its error on as text
    return any(name.startswith("multiprocessing.") for name in modules) or "pin memory thread" in str(error)
