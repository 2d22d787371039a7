"""Tiny stock models and batches that the tests of losses, heads and the objective share."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AlbertForPreTraining, AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from distillkit.layout import with_layout
from distillkit.types import IGNORE_INDEX, Batch, StepTotals

VOCABULARY = 101
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
EXTRAS: dict[str, dict[str, Any]] = {
    "distilbert": {"hidden_dim": 48},
    "albert": {"embedding_size": 16},
    "electra": {"embedding_size": 16},
    "roberta": {"bos_token_id": 1, "eos_token_id": 2},
    "modernbert": {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
}


def tiny_model(
    model_type: str = "bert", *, seed: int = 0, attention: str | None = "eager", order: bool = False, **settings: Any
) -> PreTrainedModel:
    """A random masked-LM model without dropout, in eval mode; every weight perturbed, so that no bias is zero.

    order: an ALBERT with the head for sentence order too.
    """
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[model_type](**(SIZES | EXTRAS.get(model_type, {}) | settings))
    make = AlbertForPreTraining._from_config if order else AutoModelForMaskedLM.from_config
    model = make(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def nearby(model: PreTrainedModel, scale: float) -> PreTrainedModel:
    """A copy whose weights differ by a relative `scale`."""
    torch.manual_seed(1)
    twin = copy.deepcopy(model).requires_grad_(True)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1 + scale * torch.randn_like(parameter))
    return twin


class FrozenTeacher:
    """The least a teacher has to be: `.model`, and `.hidden` under no_grad."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> Tensor:
        layout = with_layout(batch).layout
        assert layout is not None
        padded = self.model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
        return padded.flatten(0, 1)[layout.attended]


def make_batch(lengths: tuple[int, ...] = (12, 7, 9, 3), *, packed: bool = False, seed: int = 3) -> Batch:
    """Rows of the given lengths, padded to the longest; packed: all of them full and no mask at all."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    ids = torch.randint(5, VOCABULARY, shape, generator=generator)
    attended = torch.arange(shape[1]) < torch.tensor([[shape[1] if packed else n] for n in lengths])
    chosen = (torch.rand(shape, generator=generator) < 0.3) & attended
    chosen[0, 1] = True
    labels = torch.where(chosen, torch.randint(5, VOCABULARY, shape, generator=generator), IGNORE_INDEX)
    mask = None if packed else attended.long()
    return Batch(ids * attended, mask, labels, 0, 0, StepTotals(int(attended.sum()), int(chosen.sum())))


def paired(batch: Batch, *, swapped: tuple[int, ...] = (1, 0, 0, 1)) -> Batch:
    """The rows as two segments each, the second from the middle on."""
    assert batch.attention_mask is not None and len(swapped) == len(batch.labels)
    middle = batch.attention_mask.sum(1, keepdim=True) // 2
    segments = (torch.arange(batch.labels.shape[1]) >= middle).long() * batch.attention_mask
    totals = batch.totals._replace(sequences=len(swapped))
    return batch._replace(segments=segments, swapped=torch.tensor(swapped), totals=totals)
