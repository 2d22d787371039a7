"""DistilBERT students against their BERT source."""

from __future__ import annotations

import pytest
import torch

from distillkit.errors import ConfigError, TeacherError
from distillkit.students import build_distilbert


def test_distilbert_gives_the_sources_logits_when_all_layers_are_kept(bert, batch):
    student, _ = build_distilbert(bert, num_layers=4)
    attended = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = student.eval()(**batch).logits[attended], bert(**batch).logits[attended]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_distilbert_gives_the_sources_logits_when_the_source_unties_its_decoder(make_source, batch):
    source = make_source("bert", tie_word_embeddings=False)
    student, report = build_distilbert(source, num_layers=4)
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(**batch).logits[0], source(**batch).logits[0], atol=1e-5, rtol=0)
    assert report.student["vocab_projector.weight"] == "copied from cls.predictions.decoder.weight"
    assert report.source["cls.predictions.bias"] == "unused: the forward pass adds decoder.bias"


@pytest.mark.parametrize(("total", "num_layers", "expected"), [(12, None, [0, 2, 4, 7, 9, 11]), (3, None, [0, 2])])
def test_distilbert_spreads_its_layers_when_none_are_listed(make_source, total, num_layers, expected):
    source = make_source("bert", num_hidden_layers=total)
    student, report = build_distilbert(source, num_layers=num_layers)
    assert report.layer_map == {index: [layer] for index, layer in enumerate(expected)}
    for index, layer in enumerate(expected):
        ours = student.distilbert.transformer.layer[index].ffn.lin1.weight
        assert torch.equal(ours, source.bert.encoder.layer[layer].intermediate.dense.weight)


def test_distilbert_takes_the_listed_layers_when_layers_are_given(bert):
    _, report = build_distilbert(bert, layers=[1, 3])
    assert report.layer_map == {0: [1], 1: [3]}
    assert report.source["bert.encoder.layer.0.output.dense.bias"] == "unused: layer 0 not taken"


@pytest.mark.parametrize("layers", [[], [0, 0], [2, 1], [-1, 2], [0, 4]])
def test_distilbert_refuses_layers_when_they_are_no_choice(bert, layers):
    with pytest.raises(ConfigError, match=r"student\.layers=.*0\.\.3") as caught:
        build_distilbert(bert, layers=layers)
    assert caught.value.key == "student.layers"


@pytest.mark.parametrize("num_layers", [0, 5])
def test_distilbert_refuses_num_layers_when_out_of_range(bert, num_layers):
    with pytest.raises(ConfigError, match=r"student\.num_layers=.*1\.\.4"):
        build_distilbert(bert, num_layers=num_layers)


def test_distilbert_refuses_layers_when_num_layers_disagrees(bert):
    with pytest.raises(ConfigError, match="num_layers=3"):
        build_distilbert(bert, num_layers=3, layers=[0, 1])


@pytest.mark.parametrize(("model_type", "settings"), [("roberta", {}), ("bert", {"layer_norm_eps": 1e-5})])
def test_distilbert_names_shallow_when_the_source_is_no_plain_bert(make_source, model_type, settings):
    with pytest.raises(ConfigError, match="student=shallow"):
        build_distilbert(make_source(model_type, **settings))


def test_distilbert_refuses_a_source_when_it_has_no_head(bert):
    with pytest.raises(TeacherError, match="masked-LM head"):
        build_distilbert(bert.bert)


@pytest.mark.parametrize(("dropout", "expected"), [(None, (0.3, 0.2)), (0.0, (0.0, 0.0))])
def test_distilbert_dropout_is_the_sources_when_not_given(make_source, dropout, expected):
    source = make_source("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    student, _ = build_distilbert(source, dropout=dropout)
    layer = student.distilbert.transformer.layer[0]
    assert (layer.ffn.dropout.p, layer.attention.dropout.p) == expected


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_distilbert_refuses_dropout_when_out_of_range(bert, dropout):
    with pytest.raises(ConfigError, match=r"student\.dropout"):
        build_distilbert(bert, dropout=dropout)


def test_distilbert_takes_its_settings_from_the_source_when_they_are_unusual(make_source):
    source = make_source("bert", hidden_act="relu", initializer_range=0.05, pad_token_id=3, num_attention_heads=2)
    config = build_distilbert(source).model.config
    assert (config.activation, config.initializer_range, config.pad_token_id, config.n_heads, config.hidden_dim) == (
        "relu",
        0.05,
        3,
        2,
        48,
    )
