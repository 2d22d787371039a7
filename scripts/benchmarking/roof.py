"""The machine's limit: how many operations a second its best matrix product does."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from distillkit.roof import probe_roof

_SHAPES = ((2048, 768, 3072), (2048, 2048, 2048))
_REPEATS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def product_speed(product: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> float:
    """FLOP/s of the quickest of some large products of [rows, inner] and [columns, inner], each done a few times."""
    best = 0.0
    for rows, inner, columns in _SHAPES:
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        for _ in range(_REPEATS):
            start = time.perf_counter()
            product(left, right)
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


class Roof:
    """The best that was seen over all probes of a measurement.

    Attributes:
        best: "fp32" and "bf16" -> FLOP/s.
    """

    def __init__(self) -> None:
        self.best = dict.fromkeys(DTYPES, 0.0)

    def probe(self) -> None:
        """Looks again, between two rounds."""
        for name, dtype in DTYPES.items():
            self.best[name] = max(self.best[name], probe_roof(torch.device("cpu"), dtype))
