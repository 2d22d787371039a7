"""Softmax attention as plain matrix products, for CPUs, where they beat torch's fused kernel.

The fused kernel takes several times longer backwards in bfloat16: 48 against 17 ms for 16 rows x 12 heads x 128 tokens
x 64, forward and backward, on two cores. Its dropout draws one number after the other: 60 against 25 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_KEPT = 2**23
"""Probabilities that are kept for the backward pass; more of them are computed again, as many at a time."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, dropout: float, scaling: float) -> Tensor:
    """Attention over full rows.

    Args:
        query, key, value: [B, heads, T, D].
        mask: bool that broadcasts to [B, heads, T, T], True where a position may be attended; None: everywhere.
        dropout: share of the probabilities that is dropped, to 1/65536; drawn from torch's default generator.
        scaling: of the products of query and key.

    Returns:
        [B, T, heads, D].
    """
    seed = int(torch.randint(2**62, ())) if dropout else 0
    return _Attend.apply(query, key, value, mask, round(dropout * 2**16), seed, scaling)


class _Attend(torch.autograd.Function):
    """Keeps the probabilities of few rows, and computes those of many again: [B, heads, T, T] can be large."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        dropped: int,
        seed: int,
        scaling: float,
    ) -> Tensor:
        ctx.mask, ctx.dropped, ctx.seed, ctx.scaling = mask, dropped, seed, scaling
        rows, heads, length, width = query.shape
        output = query.new_empty(rows, length, heads, width)
        parts = [*_parts(query)]
        for number, part in enumerate(parts):
            probabilities = _probabilities(query[part], key[part], _of(mask, part), scaling)
            kept = probabilities
            if dropped:
                kept = probabilities * _keep(probabilities, dropped, seed + number)
            output[part] = (kept @ value[part]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, *([probabilities] if len(parts) == 1 else []))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *saved = ctx.saved_tensors
        d_query, d_key, d_value = (torch.empty_like(x) for x in (query, key, value))
        for number, part in enumerate(_parts(query)):
            q, k, v, grad = query[part], key[part], value[part], grads[0][part].transpose(1, 2)
            probabilities = saved[0] if saved else _probabilities(q, k, _of(ctx.mask, part), ctx.scaling)
            d_probabilities, kept = grad @ v.transpose(-1, -2), probabilities
            if ctx.dropped:
                keep = _keep(probabilities, ctx.dropped, ctx.seed + number)
                kept = probabilities * keep
                d_probabilities *= keep
            d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
            d_value[part] = kept.transpose(-1, -2) @ grad
            d_query[part] = (d_scores @ k).mul_(ctx.scaling)
            d_key[part] = (d_scores.transpose(-1, -2) @ q).mul_(ctx.scaling)
        return d_query, d_key, d_value, None, None, None, None


def _parts(query: Tensor) -> Iterator[slice]:
    """Cuts the rows so that each part has at most _KEPT probabilities, or one row."""
    rows, heads, length, _ = query.shape
    step = max(1, _KEPT // (heads * length * length))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _of(mask: Tensor | None, part: slice) -> Tensor | None:
    return mask[part] if mask is not None and mask.dim() == 4 and len(mask) > 1 else mask


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """[b, heads, T, T]."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if mask is not None:
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


def _keep(probabilities: Tensor, dropped: int, seed: int) -> Tensor:
    """0 for dropped of 65536, else what keeps the mean, shaped as the probabilities; four draws of 16 bits at once."""
    count = probabilities.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=torch.Generator().manual_seed(seed))
    keep = draws.view(torch.int16)[:count].view_as(probabilities) >= dropped - 2**15
    return keep.to(probabilities.dtype).mul_(2**16 / (2**16 - dropped))
