"""Gradient clipping with torch, for every Lightning module here."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer


class ClippedModule(pl.LightningModule):
    """Clips as the Trainer is told to, with torch: Lightning (2.6) refuses fused optimizers under bf16."""

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of the optimizer's parameters."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.on_clipped(optimizer, clip_gradients(parameters, gradient_clip_val, gradient_clip_algorithm))

    def on_clipped(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Called before each update with the norm [] before clipping; does nothing here."""


def clip_gradients(parameters: Iterable[Tensor], value: float | None, algorithm: str | None) -> Tensor:
    """Clips in place and returns the norm before clipping.

    Args:
        parameters: those the optimizer updates; without a gradient they are passed over.
        value: the largest norm, or None for no clipping.
        algorithm: "norm" (default) or "value", which clips each entry.

    Returns:
        [] the total 2-norm of all gradients.
    """
    with_grad = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in with_grad if p.grad is not None])
    if value:
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(with_grad, value)
        else:
            torch.nn.utils.clip_grads_with_norm_(with_grad, value, norm)
    return norm
