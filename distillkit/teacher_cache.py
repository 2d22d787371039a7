"""A teacher's last hidden states kept on disk: computed once, read by every later epoch and run of the same key.

What the objective gets is the same whether it was read or computed, bit for bit, so that a run ends the same with a
cache that is full, empty, half filled, damaged or deleted meanwhile. Two things make it so. States are rounded to the
cache's dtype also when they were just computed. And since the last bits of a floating-point sum may depend on which
rows share a batch, a row's states are always computed in its home (`data.homes`), the micro-batch it comes in first
with those masks: what is missing later is computed together with all of its home. So the key names the cut into
micro-batches, the software and the device as well. Rows beyond `cache_max_gb` are computed where they come.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from distillkit import __version__
from distillkit.cached_rows import TRAIN, VALID, Room, Rows, Split
from distillkit.data.homes import Homes
from distillkit.digest import tensors_hash
from distillkit.errors import StorageError
from distillkit.evaluation.summary import move
from distillkit.hidden_bytes import bytes_per_token, from_bytes, to_bytes
from distillkit.rowstore import RowStore
from distillkit.teachers import Teacher
from distillkit.types import Batch


class CachedTeacher:
    """A teacher whose states are read where they are stored, else computed and stored; otherwise like `Teacher`.

    Batches without `sequences` are computed and rounded alike.

    Args:
        teacher: computes what is missing.
        homes: of "train", and "valid" where there is one.
        stores: for the same names.
        dtype: the states are rounded to, one of CACHE_DTYPES.
        max_gb: most that may be stored, in 10^9 bytes.

    Attributes:
        model, hidden_size: the teacher's.
        keys: of the stores.
        room: for the states.
        rows_read, rows_computed: how many so far.
    """

    def __init__(
        self, teacher: Teacher, homes: Mapping[str, Homes], stores: Mapping[str, RowStore], *, dtype: str, max_gb: float
    ) -> None:
        self.model, self.hidden_size = teacher.model, teacher.hidden_size
        self.keys = {name: store.key for name, store in stores.items()}
        self.rows_read = self.rows_computed = 0
        self._seconds = {"all": 0.0, "computing": 0.0}
        self._teacher, self._dtype = teacher, dtype
        self._token_bytes = bytes_per_token(teacher.hidden_size, dtype)
        self.room = Room.of(homes, self._token_bytes, max_gb)
        self._splits = {name: Split(name, stores[name], homes[name], self._token_bytes, self.room) for name in homes}

    def to(self, device: torch.device) -> CachedTeacher:
        """Moves the model to a device."""
        self._teacher.to(device)
        return self

    def make(self, epochs: int) -> None:
        """Makes the folders.

        Args:
            epochs: how many epochs of different masks the run sees.

        Raises:
            StorageError: they cannot be written, or the states will not fit on the disk: with the needed and free MB.
        """
        for split in self._splits.values():
            split.store.make(config_key="teacher.cache")
        size = self.size(epochs)
        if size["missing_mb"] > size["free_mb"]:
            raise StorageError(
                f"needs {size['missing_mb']:,.0f} MB more, {size['free_mb']:,.0f} MB are free", key="teacher.cache",
                value=size["folder"], fix=f"make room, or set teacher.cache_max_gb={size['free_mb'] / 2000:.1f}",
            )  # fmt: skip

    def size(self, epochs: int) -> dict[str, Any]:
        """What the states take on the disk; MB of 10^6 bytes.

        Args:
            epochs: how many epochs of different masks the run sees.

        Returns:
            folder, bytes_per_token, all_mb (with no bound), kept_mb (within the bound), missing_mb (not there yet),
            free_mb.
        """
        stores = [split.store for split in self._splits.values()]
        kept = self.room.needed(epochs)
        return {
            "folder": str(stores[0].folder.parent),
            "bytes_per_token": self._token_bytes,
            "all_mb": (self.room.valid + epochs * self.room.epoch) / 1e6,
            "kept_mb": kept / 1e6,
            "missing_mb": max(0, kept - sum(store.occupied() for store in stores)) / 1e6,
            "free_mb": stores[0].free() / 1e6,
        }

    def row_counts(self) -> tuple[int, int]:
        """How many rows were read and how many computed so far."""
        return self.rows_read, self.rows_computed

    def facts(self) -> dict[str, Any]:
        """How many rows were read, computed and found damaged so far, and how long that took.

        Returns:
            rows_read, rows_computed, rows_damaged, read_share, seconds_reading and seconds_computing (None on a GPU,
            which has only been told what to do by then).
        """
        rows, known = self.rows_read + self.rows_computed, self.model.device.type != "cuda"
        computing = self._seconds["computing"]
        return {
            "seconds_reading": round(self._seconds["all"] - computing, 3) if known else None,
            "seconds_computing": round(computing, 3) if known else None,
            "rows_read": self.rows_read,
            "rows_computed": self.rows_computed,
            "rows_damaged": sum(split.store.damaged for split in self._splits.values()),
            "read_share": round(self.rows_read / rows, 4) if rows else 0.0,
        }

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of the attended tokens, rounded to the cache's dtype.

        Args:
            batch: one micro-batch; of the held-out rows when its step is -1.

        Returns:
            [N, H] in the order of the batch's layout, in the dtype of the teacher's weights.
        """
        began = time.perf_counter()
        with torch.no_grad():
            states = self._hidden(batch)
        self._seconds["all"] += time.perf_counter() - began
        return states

    def _hidden(self, batch: Batch) -> Tensor:
        split = self._splits.get(VALID if batch.step < 0 else TRAIN)
        if split is None or batch.sequences is None:
            return self._restored(self._computed(batch))
        rows = split.rows(batch)
        if (rows.homes < 0).all():
            self.rows_computed += len(rows.homes)
            return self._restored(self._computed(batch))
        stored = torch.empty(
            int(rows.bounds[-1]), self._token_bytes, dtype=torch.uint8, pin_memory=batch.input_ids.is_cuda
        )
        pieces = _pieces(stored, rows)
        missing = [
            line
            for line, piece in enumerate(pieces)
            if rows.homes[line] < 0 or not split.store.read(str(batch.epoch), int(rows.starts[line]), piece)
        ]
        self.rows_read += len(pieces) - len(missing)
        self.rows_computed += len(missing)
        for lines, found in self._found(split, batch, rows, missing):
            for line in lines:
                pieces[line][:] = found[rows.sequences[line]]
        return self._restored(stored.to(batch.input_ids.device, non_blocking=True))

    def _found(
        self, split: Split, batch: Batch, rows: Rows, missing: list[int]
    ) -> Iterator[tuple[list[int], dict[int, memoryview]]]:
        """Computes and stores the homes of what is missing: lines, and sequence -> bytes of them and others."""
        assert batch.sequences is not None
        own = split.homes.epoch(batch.epoch).members(int(rows.homes[0])).tolist() == list(batch.sequences)
        homes = rows.homes if own or split.store.writable else np.full_like(rows.homes, -1)
        for home in sorted({int(homes[line]) for line in missing}):
            lines = [line for line in missing if homes[line] == home]
            storing = home >= 0 and split.store.writable
            if own:
                part = batch
            elif storing:
                part = move(split.homes.batch(batch.epoch, home), batch.input_ids.device)
            else:
                part = _take(batch, rows.lines[lines])
            inside = split.rows(part)
            pieces = _pieces(self._computed(part).cpu(), inside)
            if storing:
                self._store(split, batch.epoch, inside, pieces)
            yield lines, dict(zip(inside.sequences.tolist(), pieces, strict=True))

    def _store(self, split: Split, epoch: int, rows: Rows, pieces: list[memoryview]) -> None:
        for start, piece in zip(rows.starts.tolist(), pieces, strict=True):
            if split.store.writable:
                split.store.write(str(epoch), start, piece)
        if not split.store.writable:
            for other in self._splits.values():
                other.store.writable = False
            warnings.warn(
                f"the teacher cache {split.store.folder} cannot be written, is the disk full? Nothing more is stored;"
                " rows of later epochs may differ in their last bits from those of a run that could store them",
                stacklevel=2,
            )

    def _computed(self, batch: Batch) -> Tensor:
        began = time.perf_counter()
        states = self._teacher.hidden(batch)
        self._seconds["computing"] += time.perf_counter() - began
        return to_bytes(states, self._dtype)

    def _restored(self, stored: Tensor) -> Tensor:
        return from_bytes(stored, self._dtype, self.model.dtype)


def _pieces(stored: Tensor, rows: Rows) -> list[memoryview]:
    """The bytes of each row of [N, bytes per token] on the CPU; views."""
    whole, size = stored.numpy().data.cast("B"), stored.shape[1]
    return [
        whole[a * size : b * size] for a, b in zip(rows.bounds[:-1].tolist(), rows.bounds[1:].tolist(), strict=True)
    ]


def _take(batch: Batch, lines: np.ndarray) -> Batch:
    """The micro-batch of some of its rows; its totals are those of the whole."""
    index = torch.from_numpy(lines).to(batch.input_ids.device)
    assert batch.sequences is not None
    return batch._replace(
        input_ids=batch.input_ids[index],
        attention_mask=None if batch.attention_mask is None else batch.attention_mask[index],
        labels=batch.labels[index],
        layout=None,
        sequences=tuple(batch.sequences[line] for line in lines.tolist()),
        segments=None if batch.segments is None else batch.segments[index],
        swapped=None if batch.swapped is None else batch.swapped[index],
    )


def identity(teacher: Teacher, device: torch.device, dtype: str) -> dict[str, Any]:
    """What decides the states of a masked row besides the row and its company: plain values.

    Args:
        teacher: its weights are hashed, which takes a second for some 100 million.
        device: it computes on.
        dtype: of the cache.
    """
    config = teacher.model.config.to_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    here: dict[str, Any] = {"device": device.type, "precision": torch.get_float32_matmul_precision()}
    if device.type == "cpu":
        here |= {"device": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}
        here |= {"threads": torch.get_num_threads()}
    elif device.type == "cuda":
        here |= {"device": torch.cuda.get_device_name(device)}
    return {
        "weights": tensors_hash(sorted(teacher.model.state_dict().items())),
        "config": config,
        "cache_dtype": dtype,
        "software": {
            "distillkit": __version__, "torch": torch.__version__, "transformers": transformers.__version__,
        },
    } | here  # fmt: skip
