"""Linear layers whose float32 products go to oneDNN on the CPU, instead of MKL.

MKL is up to twice as slow where it does not take a processor for one of its own; where it does the difference is 12% of
a float32 step (BERT-base into 6 layers, 16 x 128 tokens, two cores). The weights' gradient stays with MKL, whose
transposed product is the quicker one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class QuickLinear(nn.Linear):
    """nn.Linear, through oneDNN where it is in float32 on the CPU."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        """As nn.Linear."""
        whole = input.dtype == self.weight.dtype == torch.float32
        if whole and torch.is_autocast_enabled(input.device.type):
            return super().forward(_lowered(input))
        if not whole or input.device.type != "cpu" or input.numel() == 0:
            return super().forward(input)
        return _Product.apply(input, self.weight, self.bias)


_last: list[tuple[Tensor, Tensor]] = []


@contextmanager
def shared_copies() -> Iterator[None]:
    """Lets layers that follow each other on one input, as query, key and value do, share its copy for autocast.

    Autocast keeps the copies of weights, not those of activations: each layer would make and keep one of its own.
    """
    _last[:] = [(torch.empty(0), torch.empty(0))]
    try:
        yield
    finally:
        _last.clear()


def _lowered(rows: Tensor) -> Tensor:
    """The copy in autocast's precision."""
    if not _last:
        return rows
    source, copy = _last[0]
    if source is not rows:
        copy = rows.to(torch.get_autocast_dtype(rows.device.type))
        _last[0] = (rows, copy)
    return copy


def use_quick_linears(model: PreTrainedModel) -> None:
    """Gives a model's plain linear layers the quicker product, where this torch has it; weights and names stay.

    Args:
        model: changed in place.
    """
    if not _has_product():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = QuickLinear


@functools.cache
def _has_product() -> bool:
    """Whether torch's internal call is there and takes what it is to be given."""
    try:
        found = _product(torch.ones(2, 3), torch.ones(3, 4).t(), torch.ones(4))
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool((found == 4.0).all())


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        d_rows = _product(grad, weight.t(), None).view_as(rows) if ctx.needs_input_grad[0] else None
        d_weight = grad.t() @ rows.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return d_rows, d_weight, grad.sum(0) if ctx.needs_input_grad[2] else None
