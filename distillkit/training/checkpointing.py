"""Checkpoints as folders that are whole or absent, sealed by a manifest."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from distillkit.errors import RunStateError
from distillkit.storage import file_sha256, new_folder, remove_folder, remove_leftovers, write_text

STATE, MANIFEST = "state.pt", "manifest.json"


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` optimizer steps; sorts by step and holds no '='."""
    return f"step_{step:08d}"


def checkpoint_step(path: Path) -> int:
    """The inverse of `checkpoint_name`."""
    return int(path.name.removeprefix("step_"))


def checkpoints(folder: Path) -> list[Path]:
    """A run's checkpoints, by step; what else stands in their folder, such as a copy of one, is left out."""
    found = (path for path in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name))
    return sorted(found, key=checkpoint_step)


class DirectoryCheckpointIO(CheckpointIO):
    """Lightning's checkpoints as folders of `state.pt` and `manifest.json`, atomically written.

    Give it to any Trainer as a plugin. Lightning's own save stages through TMPDIR without fsync, which loses
    checkpoints when TMPDIR is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes the folder, its manifest last. Raises StorageError when that cannot be done; what was there stays."""
        with new_folder(Path(path)) as staging:
            with (staging / STATE).open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            manifest = {
                "step": checkpoint["global_step"],
                "threads": torch.get_num_threads(),
                "sha256": {STATE: file_sha256(staging / STATE)},
            }
            write_text(staging / MANIFEST, json.dumps(manifest, indent=1))

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """The checkpoint's dictionary; plain containers and tensors only.

        Raises:
            RunStateError: it is damaged or not a checkpoint.
        """
        verify(Path(path))
        return torch.load(Path(path) / STATE, map_location=map_location or "cpu", weights_only=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes the folder; a kill in between leaves a leftover, never half a checkpoint."""
        remove_folder(Path(path))


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
    remove_leftovers(folder)
    for candidate in reversed(checkpoints(folder)):
        try:
            verify(candidate)
        except RunStateError as error:
            on_skip(error)
        else:
            return candidate
    return None
