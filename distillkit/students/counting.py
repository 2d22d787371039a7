"""Counts a model's parameters: those it stores, and those it would store if nothing were shared across layers."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel


class ParameterCount(NamedTuple):
    """How many parameters a model has.

    Attributes:
        unique: every distinct tensor once; what is stored and trained.
        nominal: parameters of the same model without sharing across layers: each tensor once per call of the module
            that owns it in one forward pass. Operations scale with this, not with `unique`.
        parts: `unique` by "embeddings", "encoder", "head", "other" (a pooler); a tied decoder belongs to the
            embeddings.
    """

    unique: int
    nominal: int
    parts: dict[str, int]


def count_parameters(model: PreTrainedModel) -> ParameterCount:
    """Counts unique and nominal parameters; works on the meta device, and leaves the model and the RNG as they were.

    A tensor that two modules own, such as a tied decoder and embedding, counts by the one that is called more often.

    Args:
        model: an encoder of transformers, with or without a masked-LM head.

    Returns:
        ParameterCount: `unique` and `nominal` differ by the blocks that a model uses more than once, for ALBERT by
            (layers - groups) * block.

    Source: Lan et al. 2019, section 3.1 (cross-layer sharing); the papers' figures count AlbertModel with its pooler.
    """
    calls = _calls(model)
    uses: dict[nn.Parameter, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            uses[parameter] = max(uses.get(parameter, 1), calls[module])
    parts = dict.fromkeys(("embeddings", "encoder", "head", "other"), 0)
    base = {parameter: name for name, parameter in model.base_model.named_parameters()}
    for parameter in uses:
        parts[_part(base.get(parameter))] += parameter.numel()
    return ParameterCount(
        unique=sum(parts.values()),
        nominal=sum(parameter.numel() * times for parameter, times in uses.items()),
        parts=parts,
    )


def _calls(model: PreTrainedModel) -> Counter[nn.Module]:
    """How often one forward pass over two tokens calls each module."""
    calls: Counter[nn.Module] = Counter()
    training = [module for module in model.modules() if module.training]
    hooks = [module.register_forward_pre_hook(lambda owner, _: calls.update([owner])) for module in model.modules()]
    try:
        # Without dropout, so that counting draws nothing from the caller's random state.
        model.eval()
        with torch.no_grad():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return calls


def _part(name: str | None) -> str:
    """The part of a parameter, by its name within the base model; None is outside of it."""
    if name is None:
        return "head"
    top = name.partition(".")[0]
    return "embeddings" if top.startswith("embeddings") else "other" if top == "pooler" else "encoder"
