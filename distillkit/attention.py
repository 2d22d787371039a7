"""Attention as the student trains with it: transformers' own SDPA, in float32 where half precision is slow.

On the CPU torch's fused attention takes several times longer backwards in bfloat16 than in float32: 192 against 34 ms
for 32 texts x 12 heads x 128 tokens x 32 on two cores without AMX. It is a small part of the arithmetic and was a sixth
of a demo step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

STOCK, NAME = "sdpa", "sdpa_trained_in_float32"


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """SDPA of [B, heads, T, D] inputs; through float32 on the CPU when a gradient is to follow."""
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not slow:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        output, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
    return output.to(query.dtype), weights


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_quick_attention(model: PreTrainedModel) -> None:
    """Lets a model that uses transformers' SDPA train with `NAME`; any other choice is left alone.

    Without a gradient it is the stock function, and neither weights nor config.json know of it.

    Args:
        model: changed in place.
    """
    if model.config._attn_implementation == STOCK:
        model.set_attn_implementation(NAME)
