"""The source itself as the trained model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AlbertForMaskedLM

from distillkit.errors import ConfigError
from distillkit.students import build_pretrained
from distillkit.training.optim import decay_groups


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


def test_pretrained_leaves_frozen_weights_out_of_the_optimizer_when_named(bert):
    student, report = build_pretrained(bert, new_head=True, frozen=["embeddings", r"layer\.0\..*bias"])
    still = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    assert still == {n for n, _ in student.named_parameters() if "embeddings" in n or ("layer.0." in n and "bias" in n)}
    groups = {id(parameter) for group in decay_groups(student) for parameter in group["params"]}
    assert groups == {id(p) for name, p in student.named_parameters() if name not in still}
    assert report.student["bert.embeddings.LayerNorm.bias"] == "copied from bert.embeddings.LayerNorm.bias; frozen"
    frozen = [name for name, how in report.student.items() if how.endswith("; frozen")]
    assert set(frozen) == still | {"cls.predictions.decoder.weight"}, "the decoder is tied to the word embeddings"
    assert f"frozen: {len(frozen)} weights" in report.summary()


def test_pretrained_trains_every_weight_when_nothing_is_frozen(bert):
    student, report = build_pretrained(bert)
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert not any("frozen" in line for line in [*report.student.values(), *report.summary()])


@pytest.mark.parametrize(
    ("frozen", "problem"),
    [
        (["embedings"], "found in the name of no weight"),
        (["layer.("], "not an expression"),
        ("embeddings", "must be a list"),
        ([""], "nothing is left to train"),
    ],
)
def test_pretrained_is_refused_when_frozen_does_not_fit(bert, frozen, problem):
    with pytest.raises(ConfigError, match=rf"^student\.frozen=.*: {problem}"):
        build_pretrained(bert, frozen=frozen)


def test_pretrained_keeps_the_order_head_when_order_is_trained(make_source):
    source = make_source("albert", order=True)
    student, _ = build_pretrained(source, sop=1.0, new_head=True)
    for name in ("albert.pooler.weight", "sop_classifier.classifier.weight"):
        assert torch.equal(student.get_parameter(name), source.get_parameter(name)), name
    assert not torch.equal(student.predictions.dense.weight, source.predictions.dense.weight), "the MLM head is new"


def test_pretrained_leaves_the_order_head_behind_when_order_is_not_trained(make_source):
    student, report = build_pretrained(make_source("albert", order=True))
    assert type(student) is AlbertForMaskedLM
    assert report.source["sop_classifier.classifier.bias"] == "unused: sentence order is not trained (loss.sop=0)"


def test_pretrained_gets_a_fresh_order_head_when_the_source_has_none(make_source):
    report = build_pretrained(make_source("albert"), sop=1.0).report
    assert report.student["sop_classifier.classifier.weight"].startswith("initialised: random")
    assert report.student["predictions.dense.weight"] == "copied from predictions.dense.weight"


def test_pretrained_names_the_key_when_its_kind_has_no_order_head(bert):
    with pytest.raises(ConfigError, match=r"loss\.sop.*student=albert"):
        build_pretrained(bert, sop=1.0)
