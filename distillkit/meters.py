"""Running sums of loss terms on the device, read only when somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from distillkit.types import LossSum


class TermMeter:
    """Sums and counts of named terms since the last reset; `means` is their exact mean over positions.

    Args:
        names: the terms, in a fixed order.

    Attributes:
        sums: [2, K] float64: totals and counts; on the device of the first update.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.sums = torch.zeros(2, len(self.names), dtype=torch.float64)

    def update(self, sums: Mapping[str, LossSum]) -> None:
        """Adds one micro-batch's sums; no synchronisation with the device."""
        totals = torch.stack([sums[name].total.double() for name in self.names])
        counts = torch.stack([sums[name].count.double() for name in self.names])
        self.sums = self.sums.to(totals.device) + torch.stack([totals, counts])

    def means(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """Name -> total / count; a term that has not been counted is left out.

        Args:
            reduce: adds [2, K] up over ranks.
        """
        totals, counts = reduce(self.sums).tolist()
        return {name: t / n for name, t, n in zip(self.names, totals, counts, strict=True) if n}

    def reset(self) -> None:
        """Starts a new window."""
        self.sums = torch.zeros_like(self.sums)
