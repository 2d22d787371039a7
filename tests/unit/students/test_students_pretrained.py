"""The source itself as the trained model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distillkit.students import build_pretrained


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "modernbert"])
def test_pretrained_gives_the_sources_logits_when_the_head_is_kept(make_source, batch, model_type):
    source = make_source(model_type)
    student, _ = build_pretrained(source)
    with torch.no_grad():
        assert torch.equal(student.eval()(**batch).logits, source(**batch).logits)


def test_pretrained_shares_no_tensor_when_built(bert):
    student, _ = build_pretrained(bert)
    theirs = {parameter.data_ptr() for parameter in bert.parameters()}
    assert not theirs & {parameter.data_ptr() for parameter in student.parameters()}


@pytest.mark.parametrize("tied", [True, False])
def test_pretrained_replaces_only_the_head_when_new_head(make_source, batch, tied):
    source = make_source("bert", tie_word_embeddings=tied)
    student, report = build_pretrained(source, new_head=True)
    with torch.no_grad():
        assert torch.equal(student.eval().bert(**batch)[0], source.bert(**batch)[0])
    head = student.cls.predictions
    assert head.decoder.weight is student.bert.embeddings.word_embeddings.weight
    assert not head.decoder.bias.any()
    assert report.student["cls.predictions.transform.LayerNorm.weight"] == "initialised: ones"
    assert report.student["cls.predictions.transform.dense.weight"].startswith("initialised: random, standard dev")
    assert report.source["cls.predictions.transform.dense.weight"] == "unused: the head is new"


def test_pretrained_sets_every_dropout_when_one_is_given(bert):
    student, _ = build_pretrained(bert, dropout=0.0)
    assert {module.p for module in student.modules() if isinstance(module, nn.Dropout)} == {0.0}
    assert bert.config.hidden_dropout_prob == 0.1
