"""Shallow students against their source with layers cut out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distillkit.errors import ConfigError
from distillkit.students import build_distilbert, build_shallow


@pytest.mark.parametrize(
    ("model_type", "path"),
    [
        ("bert", "bert.encoder.layer"),
        ("roberta", "roberta.encoder.layer"),
        ("electra", "electra.encoder.layer"),
        ("modernbert", "model.layers"),
        ("distilbert", "distilbert.transformer.layer"),
    ],
)
@pytest.mark.parametrize("layers", [[0, 3], [0, 2], [0, 1, 2, 3]])
def test_shallow_gives_the_logits_of_the_cut_source_when_layers_are_listed(
    make_source, batch, model_type, path, layers
):
    source = make_source(model_type)
    cut = copy.deepcopy(source)
    parent, _, name = path.rpartition(".")
    setattr(cut.get_submodule(parent), name, nn.ModuleList([cut.get_submodule(path)[layer] for layer in layers]))
    cut.config.num_hidden_layers = len(layers)
    if model_type == "modernbert":
        cut.config.layer_types = [cut.config.layer_types[layer] for layer in layers]
    student, report = build_shallow(source, layers=layers)
    with torch.no_grad():
        torch.testing.assert_close(student.eval()(**batch).logits, cut(**batch).logits, atol=1e-6, rtol=0)
    assert report.layer_map == {index: [layer] for index, layer in enumerate(layers)}
    assert type(student) is type(source)


def test_shallow_keeps_half_of_the_layers_when_nothing_is_given(make_source):
    assert build_shallow(make_source("roberta")).report.layer_map == {0: [0], 1: [3]}


def test_shallow_keeps_the_attention_of_each_layer_when_layer_types_differ(make_source):
    source = make_source("modernbert")
    kinds = source.config.layer_types
    assert build_shallow(source, layers=[0, 2, 3]).model.config.layer_types == [kinds[0], kinds[2], kinds[3]]
    assert len(source.config.layer_types) == 4


def test_shallow_refuses_a_layer_when_its_place_needs_other_weights(make_source):
    with pytest.raises(ConfigError, match="layer 1 of the source cannot stand at place 0"):
        build_shallow(make_source("modernbert"), layers=[1, 3])


def test_shallow_refuses_a_source_when_it_shares_its_layers(make_source):
    with pytest.raises(ConfigError, match="albert"):
        build_shallow(make_source("albert", embedding_size=16))


def test_shallow_student_is_float32_when_the_source_is_bfloat16(bert):
    student, _ = build_shallow(bert.bfloat16())
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.config.dtype == torch.float32
    assert student.training


def test_shallow_sets_every_dropout_when_one_is_given(make_source):
    student, _ = build_shallow(make_source("roberta"), dropout=0.25)
    assert {module.p for module in student.modules() if isinstance(module, nn.Dropout)} == {0.25}


@pytest.mark.parametrize(("build", "model_type"), [(build_shallow, "roberta"), (build_distilbert, "bert")])
def test_student_reads_nothing_from_its_source_when_init_is_random(make_source, batch, build, model_type):
    source = make_source(model_type)
    torch.manual_seed(0)
    student, report = build(source, init="random", layers=[0, 3])
    torch.manual_seed(0)
    again, _ = build(source, init="random", num_layers=2)
    taken = {id(weight): weight for weight in source.state_dict().values()}
    for (name, weight), other in zip(student.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
        assert not any(weight.shape == known.shape and torch.equal(weight, known) for known in taken.values()), name
    assert all(how.startswith(("initialised", "tied")) for how in report.student.values())
    assert report.layer_map == {} and student.config.num_hidden_layers == 2
    assert student(**batch).logits.isfinite().all()
    with pytest.raises(ConfigError, match=r"student\.init=fresh.*allowed: teacher, random"):
        build(source, init="fresh")
