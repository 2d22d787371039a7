"""Checkpoints that are whole or absent: written beside their place, synced, renamed, and sealed by a manifest."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from distillkit.errors import RunStateError, StorageError

STATE, MANIFEST = "state.pt", "manifest.json"
_UNFINISHED, _DOOMED = ".writing-", ".removing-"


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` optimizer steps; sorts by step and holds no '='."""
    return f"step_{step:08d}"


def checkpoint_step(path: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(path.name.removeprefix("step_"))


class DirectoryCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as folders of `state.pt` and `manifest.json`, atomically written.

    Give it to any Trainer as a plugin. Lightning's own save stages through TMPDIR without fsync, which loses
    checkpoints when TMPDIR is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the folder. Raises StorageError when there is no room or no right to; what was there stays."""
        folder = Path(path)
        with written_atomically(folder) as staging:
            with (staging / STATE).open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            manifest = {
                "step": checkpoint["global_step"],
                "threads": torch.get_num_threads(),
                "sha256": {STATE: file_sha256(staging / STATE)},
            }
            with (staging / MANIFEST).open("w") as text:
                json.dump(manifest, text, indent=1)
                text.flush()
                os.fsync(text.fileno())

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """The checkpoint's dictionary; plain containers and tensors only.

        Raises:
            RunStateError: it is damaged or not a checkpoint.
        """
        verify(Path(path))
        return torch.load(Path(path) / STATE, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the folder; a kill in between leaves a leftover, never half a checkpoint."""
        folder = Path(path)
        doomed = folder.with_name(f"{_DOOMED}{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


@contextlib.contextmanager
def written_atomically(folder: Path) -> Iterator[Path]:
    """A staging folder that takes `folder`'s place, synced, when the block ends well; else it is removed.

    Raises:
        StorageError: the disk is full or the place cannot be written; names the free space.
    """
    staging = folder.with_name(f"{_UNFINISHED}{folder.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        sync_folder(staging)
        if folder.exists():
            DirectoryCheckpointIO().remove_checkpoint(folder)
        os.replace(staging, folder)
        sync_folder(folder.parent)
    except (OSError, RuntimeError) as error:
        needed = sum(f.stat().st_size for f in staging.glob("**/*") if f.is_file()) if staging.exists() else 0
        shutil.rmtree(staging, ignore_errors=True)
        # torch.save on a full disk raises RuntimeError "unexpected pos" instead of OSError
        if isinstance(error, OSError) or "unexpected pos" in str(error) or "PytorchStreamWriter" in str(error):
            raise _storage_error(error, folder, needed) from error
        raise


def _storage_error(error: Exception, folder: Path, written: int) -> StorageError:
    parent = next(p for p in folder.resolve().parents if p.exists())
    free = shutil.disk_usage(parent).free
    full = not isinstance(error, OSError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "the disk is full" if full else str(error.strerror or error)
    return StorageError(
        f"cannot write: {reason} (needed more than {written / 1e6:.0f} MB, {free / 1e6:.0f} MB free)",
        key="file", value=folder, fix="make room and run distillkit resume; earlier checkpoints are intact",
    )


def verify(folder: Path) -> None:
    """Raises RunStateError unless the folder's files are those of its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        damaged = [name for name, digest in manifest["sha256"].items() if file_sha256(folder / name) != digest]
    except (OSError, ValueError, KeyError) as error:
        raise RunStateError(f"not a whole checkpoint ({error})", key="checkpoint", value=folder) from error
    if damaged:
        raise RunStateError(f"damaged: {', '.join(damaged)} differs from the manifest", key="checkpoint", value=folder)


def newest_good(folder: Path, on_skip: Callable[[RunStateError], None]) -> Path | None:
    """The newest checkpoint in `folder` that verifies, or None.

    Args:
        folder: a run's checkpoints; leftovers of killed writes are removed from it.
        on_skip: told of each newer one that does not verify.
    """
    for leftover in [*folder.glob(f"{_UNFINISHED}*"), *folder.glob(f"{_DOOMED}*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    for candidate in sorted(folder.glob("step_*"), reverse=True):
        try:
            verify(candidate)
        except RunStateError as error:
            on_skip(error)
        else:
            return candidate
    return None


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
