"""Attention as distillkit computes it inside stock transformers models: exact, without padding, in the quickest way.

Rows that share a batch need not share a length: a model that takes transformers' AttentionInterface is given all
attended tokens as one row [1, N], with the lengths as a keyword, and attention is computed row by row here.

On the CPU attention is made of plain products (`products`), and rows of equal length share them. Beyond
`LONGEST_PRODUCT` tokens, and on GPUs, the fused kernels serve.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from distillkit.attention.products import attend

STOCK, NAME = "sdpa", "distillkit"
LONGEST_PRODUCT = 512

_unpadded: ContextVar[list[nn.Module] | None] = ContextVar("unpadded", default=None)


def use_quick_attention(model: PreTrainedModel) -> None:
    """Lets a model that uses transformers' SDPA compute with `NAME`; any other choice is left alone.

    Neither weights nor config.json know of it.

    Args:
        model: changed in place.
    """
    if model.config._attn_implementation == STOCK:
        model.set_attn_implementation(NAME)


@contextmanager
def unpadded() -> Iterator[list[nn.Module]]:
    """Inside, the models' inputs are rows without padding, their lengths given as `row_lengths`: no mask is made.

    Returns:
        The attention modules called so far, each as often as it was called; inside another `unpadded` its list.
    """
    outer = _unpadded.get()
    calls: list[nn.Module] = [] if outer is None else outer
    token = _unpadded.set(calls)
    try:
        yield calls
    finally:
        _unpadded.reset(token)


def _mask(**options: Any) -> Tensor | None:
    return None if _unpadded.get() is not None else sdpa_mask(**options)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    row_lengths: Sequence[int] | None = None,
    row_starts: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of [B, heads, T, D] inputs, or of [1, heads, N, D] that hold rows of `row_lengths`.

    Returns:
        [B, T, heads, D], and None for the weights, as transformers wants it.
    """
    calls = _unpadded.get()
    if calls is not None:
        calls.append(module)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if row_lengths is None:
        if not _products_pay(query) or key.shape[1] != query.shape[1]:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
            )
        return attend(query, key, value, attention_mask, dropout=dropout, scaling=scaling), None
    if query.is_cuda and dropout == 0 and query.dtype in (torch.float16, torch.bfloat16):
        return _attend_varlen(query, key, value, scaling, sliding_window, row_starts, max(row_lengths)), None
    groups = [(length, len(list(equal))) for length, equal in itertools.groupby(row_lengths)]
    parts = []
    for own, keys, values in zip(*(_as_rows(x, groups) for x in (query, key, value)), strict=True):
        near = _near(own.shape[2], sliding_window, query.device)
        if _products_pay(own):
            part = attend(own, keys, values, near, dropout=dropout, scaling=scaling)
        else:
            part = F.scaled_dot_product_attention(own, keys, values, near, dropout, scale=scaling).transpose(1, 2)
        parts.append(part.flatten(0, 1))
    return torch.cat(parts).unsqueeze(0), None


def _products_pay(query: Tensor) -> bool:
    return query.device.type == "cpu" and query.shape[2] <= LONGEST_PRODUCT


def _as_rows(x: Tensor, groups: Sequence[tuple[int, int]]) -> list[Tensor]:
    """[B, heads, T, D] of each (T, B), from [1, heads, N, D]; cut at once, or each cut's gradient would fill all N."""
    pieces = x[0].split([length * count for length, count in groups], dim=1)
    return [piece.unflatten(1, (-1, length)).transpose(0, 1) for piece, (length, _) in zip(pieces, groups, strict=True)]


def _near(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[T, T], True within `window` - 1 tokens to both sides; None where that is everything."""
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=device)
    return (place[:, None] - place).abs() < window


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None, starts: Tensor | None, longest: int
) -> Tensor:
    """FlashAttention over rows of any length, as torch brings it; [1, N, heads, D]."""
    from torch.nn.attention.varlen import varlen_attn

    assert starts is not None
    reach = (-1, -1) if window is None else (window - 1, window - 1)
    own, keys, values = (x[0].transpose(0, 1) for x in (query, key, value))
    output = varlen_attn(own, keys, values, starts, starts, longest, longest, scale=scaling, window_size=reach)
    assert isinstance(output, Tensor)
    return output.unsqueeze(0)


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _mask)
