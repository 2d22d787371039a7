"""How often each token stands in a prepared corpus: counted when it is first asked for, then kept beside the rows."""

from __future__ import annotations

import os

import datasets
import numpy as np

from distillkit.data.cache import PreparedData, locked, storage_errors

_FILE = "token_counts.npy"

_ROWS_AT_A_TIME = 8192


def token_counts(data: PreparedData) -> np.ndarray:
    """The counts over the training rows; they follow from the rows, so the cache entry's key covers them.

    Who finds another process counting waits for it.

    Args:
        data: prepared.

    Returns:
        [highest id + 1] int64.

    Raises:
        StorageError: they cannot be kept.
    """
    place, root = data.folder / _FILE, data.folder.parent
    if not place.exists():
        with storage_errors(root), locked(root / f"{data.key}.lock"):
            if not place.exists():
                new = place.with_suffix(".new")  # of one who died, if there is one: the lock is ours
                with new.open("wb") as stream:
                    np.save(stream, _counted(data.train))
                    stream.flush()
                    os.fsync(stream.fileno())
                new.replace(place)
    return np.asarray(np.load(place, allow_pickle=False))


def _counted(rows: datasets.Dataset) -> np.ndarray:
    total = np.zeros(0, dtype=np.int64)
    for table in rows.with_format("arrow").iter(_ROWS_AT_A_TIME):
        part = np.bincount(table.column("input_ids").combine_chunks().flatten().to_numpy(), minlength=len(total))
        part[: len(total)] += total
        total = part
    return total
