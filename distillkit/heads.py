"""The heads of stock transformers models on their own: masked-LM predictions of any class, sentence order of ALBERT's.

The first works position by position, so it can be applied to just the tokens that carry a loss.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from transformers import AlbertForPreTraining, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


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
    if isinstance(model, AlbertForPreTraining):  # its forward computes both heads
        return model.predictions(hidden)
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


def class_of(config: PreTrainedConfig, stored: Collection[str]) -> Any:
    """The class to load a stored model with, so that it keeps its head for sentence order where it has one.

    Args:
        config: of the model.
        stored: the names of its weights.

    Returns:
        A class with `from_pretrained`.
    """
    ordering = config.model_type == "albert" and "sop_classifier.classifier.weight" in stored
    return AlbertForPreTraining if ordering else AutoModelForMaskedLM


def has_order_head(model: PreTrainedModel) -> bool:
    """Whether a model has a head for sentence order beside its masked-LM head; only an AlbertForPreTraining has."""
    return isinstance(model, AlbertForPreTraining)


def order_logits(model: PreTrainedModel, first: Tensor) -> Tensor:
    """Logits of the head for sentence order.

    Args:
        model: with such a head (`has_order_head`).
        first: [B, H] last hidden states of each row's first token.

    Returns:
        [B, 2]: in order, swapped. Without the dropout that transformers puts before the last layer in training: the
        original's get_sentence_order_output has none.
    """
    assert isinstance(model, AlbertForPreTraining)
    return model.sop_classifier.classifier(model.albert.pooler_activation(model.albert.pooler(first)))
