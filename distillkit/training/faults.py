"""Faults of the machine among what training raises."""

from __future__ import annotations

from distillkit.errors import StorageError


def as_fault(error: Exception, workers: int) -> Exception:
    """A data worker that died or a file that cannot be written, as what it is; any other error as it came.

    Args:
        error: raised by Lightning's fit.
        workers: data workers; a broken pipe is theirs only if there are any.

    Returns:
        StorageError, or `error` itself.
    """
    text, fix = str(error).strip().splitlines()[:1], "distillkit resume RUN_DIR"
    broken_pipe = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    if "DataLoader worker" in str(error) or (workers and broken_pipe):
        return StorageError(f"a data worker died: {' '.join(text)}", fix=fix)
    if isinstance(error, OSError):
        return StorageError(f"cannot be written: {error.strerror}", key="file", value=error.filename, fix=fix)
    return error
