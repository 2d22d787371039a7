"""Keeps non-finite numbers out of the weights without a device synchronisation per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from distillkit.errors import NumericalError
from distillkit.types import LossSum

_NEVER = 2**62


class FiniteWatch:
    """Remembers on the device at which step each term, and the gradient, first stopped being finite.

    Args:
        names: the loss terms in the order they are blamed in; the gradient comes last.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = [*names, "gradient"]
        self._first = torch.full((len(self.names),), _NEVER, dtype=torch.int64)

    def note_terms(self, sums: Mapping[str, LossSum], step: int) -> None:
        """Looks at one micro-batch's totals; step is the global optimizer step."""
        totals = torch.stack([sums[name].total for name in self.names[:-1]])
        bad = torch.cat([~totals.isfinite(), totals.new_zeros(1, dtype=torch.bool)])
        self._note(bad, step)

    def guard_update(self, optimizer: Optimizer, norm: Tensor, step: int) -> None:
        """Makes the coming update a no-op when the gradient's norm is not finite.

        Optimizers that know `found_inf` (torch's fused ones) are gated on the device. For any other one the norm is
        read here, and NumericalError ends the run before the update.

        Args:
            optimizer: about to step.
            norm: [] of all gradients.
            step: the global optimizer step.
        """
        bad = ~norm.isfinite()
        self._note(torch.cat([bad.new_zeros(len(self.names) - 1), bad.reshape(1)]), step)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        else:
            self.check()

    def _note(self, bad: Tensor, step: int) -> None:
        first = self._first.to(bad.device)
        self._first = torch.where(bad & (first == _NEVER), step, first)

    def check(self) -> None:
        """Raises NumericalError naming the first culprit, if there is one. Reads the device."""
        first = self._first.tolist()
        step = min(first)
        if step < _NEVER:
            raise NumericalError(
                f"{self.names[first.index(step)]} is not finite at step {step + 1}; no update was made from it",
                fix="lower optimizer.lr or set trainer.gradient_clip_val, then resume from the last checkpoint",
            )
