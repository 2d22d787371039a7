"""Tiny random source models; every weight is perturbed, so that no bias is zero and no LayerNorm is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, PreTrainedModel

from tests.parity.models import tiny_model

SIZES: dict[str, Any] = {"vocab_size": 120, "num_hidden_layers": 4}
MODERNBERT: dict[str, Any] = {"local_attention": 4}

MakeSource = Callable[..., PreTrainedModel]


@pytest.fixture
def make_source() -> MakeSource:
    """make_source("roberta", num_hidden_layers=3): a tiny masked-LM model of that type, in eval mode."""

    def make(model_type: str = "bert", **settings: Any) -> PreTrainedModel:
        extras = MODERNBERT if model_type == "modernbert" else {}
        return tiny_model(model_type, attention=None, **(SIZES | extras | settings))

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
