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

ALBERT = {
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096},
    "xlarge": {"num_hidden_layers": 24, "hidden_size": 2048, "num_attention_heads": 32, "intermediate_size": 8192},
    "xxlarge": {"num_hidden_layers": 12, "hidden_size": 4096, "num_attention_heads": 64, "intermediate_size": 16384},
}


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
        (AlbertForPreTraining, AlbertConfig(**ALBERT["base"]), 11_813_810),
    ],
)
def test_unique_count_is_exact_when_the_model_is_published(model_class, config, expected):
    assert count(model_class, config).unique == expected


@pytest.mark.parametrize(
    ("size", "encoder", "masked_lm"),
    [
        ("base", 11_683_584, 11_221_680),
        ("large", 17_683_968, 16_795_824),
        ("xlarge", 58_724_864, 54_821_040),
        ("xxlarge", 222_595_584, 206_368_944),
    ],
)
def test_unique_count_is_exact_when_layers_are_shared(size, encoder, masked_lm):
    assert count(AlbertModel, AlbertConfig(**ALBERT[size])).unique == encoder
    assert count(AlbertForMaskedLM, AlbertConfig(**ALBERT[size])).unique == masked_lm


@pytest.mark.parametrize(
    ("embedding_size", "shared", "unshared"),
    [(64, 9.68, 87.65), (128, 11.68, 89.65), (256, 15.69, 93.65), (768, 31.71, 109.67)],
)
def test_counts_match_the_sharing_table_when_everything_is_shared(embedding_size, shared, unshared):
    counted = count(AlbertModel, AlbertConfig(embedding_size=embedding_size, **ALBERT["base"]))
    assert round(counted.unique / 1e6, 2) == shared
    assert round(counted.nominal / 1e6, 2) == unshared


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_nominal_count_adds_a_block_per_repeated_layer_when_layers_are_shared(groups):
    counted = count(AlbertForMaskedLM, AlbertConfig(num_hidden_groups=groups, **ALBERT["base"]))
    block = 7_087_872
    assert counted.nominal == counted.unique + (12 - groups) * block


def test_nominal_count_repeats_only_attention_when_only_attention_is_shared():
    with torch.device("meta"):
        model = AlbertModel(AlbertConfig(num_hidden_groups=12, **ALBERT["base"]))
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
    counted = count(AlbertModel, AlbertConfig(**ALBERT["base"]))
    assert counted.parts == {"embeddings": 3_906_048, "encoder": 7_186_944, "head": 0, "other": 590_592}


def test_count_leaves_modes_and_random_state_when_training(bert):
    student, _ = build_albert(bert, dropout=0.5)
    student.albert.embeddings.eval()
    modes, state = [module.training for module in student.modules()], torch.get_rng_state()
    count_parameters(student)
    assert modes == [module.training for module in student.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_pre_hooks for module in student.modules())
