"""A masked-LM model as two halves, encoder and head, for any stock transformers class.

A head works position by position, so it can be applied to just the rows that carry a loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


def encode(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Last hidden states of the encoder.

    Args:
        model: a masked-LM model with a `base_model`.
        input_ids: [B, T] int64.
        attention_mask: [B, T] int64, or None when every position is attended.

    Returns:
        [B, T, H] in the model's dtype.
    """
    return model.base_model(input_ids=input_ids, attention_mask=attention_mask)[0]


def longest_row(model: PreTrainedModel) -> int | None:
    """Tokens of the longest row a model takes: RoBERTa-like models spend padding_idx + 1 of their positions.

    Args:
        model: with a `base_model`.

    Returns:
        None where its config names no limit.
    """
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    if positions is None or table is None or table.padding_idx is None:
        return positions
    return positions - table.padding_idx - 1


def apply_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits of the model's own prediction head for some positions.

    The model's forward runs with its encoder standing aside, so that each architecture's own head code is used and
    no list of architectures is needed.

    Args:
        model: a masked-LM model with a `base_model`.
        hidden: [N, H] last hidden states.

    Returns:
        [N, V] in the dtype the head computes in.
    """
    rows = BaseModelOutput(last_hidden_state=hidden.unsqueeze(0))

    def rows_as_output(*args: Any, **kwargs: Any) -> BaseModelOutput:
        return rows

    encoder = model.base_model
    encoder.forward = rows_as_output  # shadows the class's method on this instance only
    try:
        return model(input_ids=hidden.new_zeros(1, 1, dtype=torch.long)).logits.squeeze(0)
    finally:
        del encoder.forward


def head_parameters(model: PreTrainedModel) -> list[Tensor]:
    """The trainable parameters that take part in `apply_head`, tied embeddings included.

    Args:
        model: a masked-LM model.

    Returns:
        Each parameter once, in the order of `model.parameters()`.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    with torch.enable_grad():
        probe = apply_head(model, trainable[0].new_zeros(1, model.config.hidden_size)).sum()
    if not probe.requires_grad:  # the whole head is frozen
        return []
    grads = torch.autograd.grad(probe, trainable, allow_unused=True)
    return [p for p, grad in zip(trainable, grads, strict=True) if grad is not None]
