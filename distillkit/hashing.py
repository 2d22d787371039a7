"""One line that identifies a model's weights, however and wherever they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from distillkit.digest import tensors_hash
from distillkit.errors import RunStateError
from distillkit.rundir import STUDENT
from distillkit.training.checkpointing import STATE


def weights_hash(folder: str | Path) -> str:
    """sha256 over the sorted names, dtypes, shapes and bytes of a folder's tensors.

    Args:
        folder: a model's folder, a run's (its student/), or a checkpoint's.

    Returns:
        64 hex digits; equal exactly when every tensor is equal bit for bit.

    Raises:
        RunStateError: there are no weights in it.
    """
    return tensors_hash(_tensors(Path(folder)))


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    if (folder / STATE).is_file():
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)["state_dict"]
        yield from sorted(state.items())
        return
    place = folder / STUDENT if (folder / STUDENT).is_dir() else folder
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise RunStateError(
            "no weights", key="hash", value=folder, allowed="a model's, a run's or a checkpoint's folder"
        )
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
