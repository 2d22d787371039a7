"""Tiny random source models; every weight is perturbed, so that no bias is zero and no LayerNorm is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, BertForMaskedLM, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
EXTRAS: dict[str, dict[str, Any]] = {
    "distilbert": {"hidden_dim": 48},
    "electra": {"embedding_size": 16},
    "modernbert": {
        "local_attention": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
    },
}

MakeSource = Callable[..., PreTrainedModel]


@pytest.fixture
def make_source() -> MakeSource:
    """make_source("roberta", num_hidden_layers=3): a tiny masked-LM model of that type, in eval mode."""

    def make(model_type: str = "bert", **settings: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        config = CONFIG_MAPPING[model_type](**(SIZES | EXTRAS.get(model_type, {}) | settings))
        model = AutoModelForMaskedLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def bert(make_source: MakeSource) -> BertForMaskedLM:
    return make_source("bert")


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Two rows of 12 tokens, the second padded from position 8 on."""
    ids = torch.randint(5, 120, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}
