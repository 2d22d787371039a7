"""Parameter counts against the figures computed from the architectures."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForPreTraining,
    AlbertModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
)

from distillkit.students import build_albert, build_distilbert, count_parameters

BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}


def count(model_class, config):
    with torch.device("meta"):
        return count_parameters(model_class(config))


@pytest.mark.parametrize(
    ("model_class", "config", "expected"),
    [
        (BertModel, BertConfig(), 109_482_240),
        (BertForMaskedLM, BertConfig(), 109_514_298),
        (DistilBertModel, DistilBertConfig(), 66_362_880),
        (DistilBertForMaskedLM, DistilBertConfig(), 66_985_530),
        (AlbertForPreTraining, AlbertConfig(**BASE), 11_813_810),
    ],
)
def test_unique_count_is_exact_when_the_model_is_published(model_class, config, expected):
    assert count(model_class, config).unique == expected


def test_unique_count_is_exact_when_layers_are_shared():
    """The other sizes stand in test_students_albert_share.py, built from conf/."""
    assert count(AlbertModel, AlbertConfig(**BASE)).unique == 11_683_584
    assert count(AlbertForMaskedLM, AlbertConfig(**BASE)).unique == 11_221_680


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_nominal_count_adds_a_block_per_repeated_layer_when_layers_are_shared(groups):
    counted = count(AlbertForMaskedLM, AlbertConfig(num_hidden_groups=groups, **BASE))
    block = 7_087_872
    assert counted.nominal == counted.unique + (12 - groups) * block


def test_nominal_count_repeats_only_attention_when_only_attention_is_shared():
    with torch.device("meta"):
        model = AlbertModel(AlbertConfig(num_hidden_groups=12, **BASE))
        blocks = [group.albert_layers[0] for group in model.encoder.albert_layer_groups]
        for block in blocks:
            block.attention = blocks[0].attention
        counted = count_parameters(model)
    assert (counted.unique, counted.nominal) == (63_647_232, 89_650_176)


def test_nominal_count_equals_unique_when_nothing_is_shared(bert):
    for model in (bert, build_distilbert(bert).model):
        counted = count_parameters(model)
        assert counted.nominal == counted.unique == sum(parameter.numel() for parameter in model.parameters())


def test_built_distilbert_has_the_published_size_when_the_source_is_bert_base():
    with torch.device("meta"):
        student, _ = build_distilbert(BertForMaskedLM(BertConfig()))
        assert count_parameters(student) == (
            66_985_530,
            66_985_530,
            {"embeddings": 23_835_648, "encoder": 42_527_232, "head": 622_650, "other": 0},
        )


def test_parts_add_up_when_the_model_has_a_pooler():
    counted = count(AlbertModel, AlbertConfig(**BASE))
    assert counted.parts == {"embeddings": 3_906_048, "encoder": 7_186_944, "head": 0, "other": 590_592}


def test_count_leaves_modes_and_random_state_when_training(bert):
    student, _ = build_albert(bert, dropout=0.5)
    student.albert.embeddings.eval()
    modes, state = [module.training for module in student.modules()], torch.get_rng_state()
    count_parameters(student)
    assert modes == [module.training for module in student.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in student.modules())
