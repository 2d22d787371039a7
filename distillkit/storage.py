"""Files and folders that are whole or absent: written beside their place, synced, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from distillkit.errors import StorageError

_UNFINISHED, _DOOMED, _REPLACED = ".writing-", ".removing-", ".replaced-"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A staging folder that takes `folder`'s place, synced, when the block ends well; else it is removed.

    Args:
        folder: its final place; what stands there is replaced.

    Yields:
        The folder to write into.

    Raises:
        StorageError: the disk is full or the place cannot be written; what was there stays.
    """
    staging = folder.with_name(f"{_UNFINISHED}{folder.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        sync_folder(staging)
        replaced = folder.with_name(f"{_REPLACED}{folder.name}")
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        os.replace(staging, folder)
        sync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except Exception as error:
        written = sum(f.stat().st_size for f in staging.glob("**/*") if f.is_file()) if staging.exists() else 0
        shutil.rmtree(staging, ignore_errors=True)
        # on a full disk torch.save raises RuntimeError "unexpected pos" instead of OSError
        if isinstance(error, OSError) or "unexpected pos" in str(error) or "PytorchStreamWriter" in str(error):
            raise _storage_error(error, folder, written) from error
        if number := re.search(r"os error (\d+)", str(error)):  # Rust's way to say it, of safetensors and tokenizers
            code = int(number[1])
            raise _storage_error(OSError(code, os.strerror(code)), folder, written) from error
        raise


def remove_folder(folder: Path) -> None:
    """Removes a folder; a kill in between leaves a leftover under another name, never half a folder."""
    doomed = folder.with_name(f"{_DOOMED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_leftovers(parent: Path) -> None:
    """Removes what killed writes and removals left in a folder. Only for who owns it alone.

    What was about to be replaced is put back when its successor did not arrive.
    """
    for replaced in parent.glob(f"{_REPLACED}*"):
        successor = parent / replaced.name.removeprefix(_REPLACED)
        if successor.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(successor)
    for leftover in [*parent.glob(f"{_UNFINISHED}*"), *parent.glob(f"{_DOOMED}*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, for UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces a file atomically. Raises StorageError when that cannot be done; the old file stays."""
    staging = path.with_name(f"{_UNFINISHED}{path.name}")
    try:
        with staging.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        raise _storage_error(error, path, len(content)) from error


def append_text(path: Path, text: str) -> None:
    """Appends to a text file. Raises StorageError when that cannot be done."""
    try:
        with path.open("a", newline="") as file:
            file.write(text)
    except OSError as error:
        raise _storage_error(error, path, len(text)) from error


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(error: Exception, place: Path, written: int) -> StorageError:
    parent = next(p for p in place.resolve().parents if p.exists())
    free = shutil.disk_usage(parent).free
    reason = "the disk is full"
    if isinstance(error, OSError) and error.errno not in (errno.ENOSPC, errno.EDQUOT):
        reason = error.strerror or str(error)
    return StorageError(
        f"cannot be written: {reason} (needs more than {written / 1e6:.0f} MB, {free / 1e6:.0f} MB free)",
        key="file", value=place, fix="make room and run distillkit resume; earlier checkpoints are intact",
    )  # fmt: skip
