"""The machine's limit: how many operations a second its best matrix product does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_SHAPES = ((2048, 768, 3072), (2048, 2048, 2048))
_REPEATS = 3
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def probe_roof(dtype: torch.dtype) -> float:
    """FLOP/s of the quickest matrix product there is for a dtype; takes half a second or so.

    In float32 oneDNN's product is tried beside torch's own, which goes to MKL: on some CPUs it is twice as fast.
    """
    return max(product_speed(product, dtype) for product in _products(dtype))


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


def _products(dtype: torch.dtype) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
    yield F.linear
    if dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        yield lambda left, right: torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


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
            self.best[name] = max(self.best[name], probe_roof(dtype))
