"""ALBERT students: sizes, factorized embeddings, shared blocks, head."""

from __future__ import annotations

import pytest
import torch
from transformers import AlbertForMaskedLM, AlbertForPreTraining
from transformers.models.bert.modeling_bert import BertPooler

from distillkit.errors import ConfigError, TeacherError
from distillkit.students import build_albert

SHARED_SIZES = (
    "vocab_size",
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


def block(student, group):
    return student.albert.encoder.albert_layer_groups[group].albert_layers[0]


def test_albert_takes_its_sizes_from_the_source_when_nothing_is_given(make_source):
    source = make_source("bert", hidden_act="relu", layer_norm_eps=1e-7, type_vocab_size=3, initializer_range=0.03)
    config = build_albert(source).model.config
    for key in SHARED_SIZES:
        assert getattr(config, key) == getattr(source.config, key), key
    assert (config.embedding_size, config.num_hidden_groups) == (32, 1)


def test_albert_keeps_the_largest_singular_values_when_the_table_is_narrow(bert):
    student, report = build_albert(bert, embedding_size=8)
    squares = torch.linalg.svdvals(bert.bert.embeddings.word_embeddings.weight.detach()).square()
    kept = student.albert.embeddings.word_embeddings.weight.detach().square().sum()
    torch.testing.assert_close(kept, squares[:8].sum(), rtol=1e-4, atol=0)
    assert report.embedding_energy == pytest.approx(float(squares[:8].sum() / squares.sum()), rel=1e-5)


@pytest.mark.parametrize("table", ["position_embeddings", "token_type_embeddings"])
def test_albert_projects_every_table_in_one_basis_when_factorized(bert, table):
    student, _ = build_albert(bert, embedding_size=32)
    ours, theirs = student.albert.embeddings, bert.bert.embeddings
    torch.testing.assert_close(
        ours.word_embeddings.weight @ getattr(ours, table).weight.T,
        theirs.word_embeddings.weight @ getattr(theirs, table).weight.T,
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("embedding_size", [4, 16, 32])
def test_albert_projection_is_the_least_squares_fit_when_measured_through_the_modules(bert, embedding_size):
    student, report = build_albert(bert, embedding_size=embedding_size)
    words = torch.arange(120)[:, None]
    with torch.no_grad():
        theirs = bert.bert.embeddings(words, position_ids=words % 40)[:, 0].double()
        inputs = student.eval().albert.embeddings(words, position_ids=words % 40)[:, 0]
        ours = student.albert.encoder.embedding_hidden_mapping_in(inputs).double()
        design = torch.cat([inputs.double(), torch.ones(120, 1)], 1)
        best = design @ torch.linalg.lstsq(design, theirs, rcond=1e-6, driver="gelsd").solution
    around_mean = (theirs - theirs.mean(0)).norm()
    assert report.embedding_residual == pytest.approx(float((ours - theirs).norm() / around_mean), rel=1e-4)
    assert report.embedding_residual == pytest.approx(float((best - theirs).norm() / around_mean), rel=1e-4)


def test_albert_block_averages_its_range_when_init_is_average(bert):
    student, report = build_albert(bert, num_groups=2)
    for group, layers in enumerate(([0, 1], [2, 3])):
        theirs = [bert.bert.encoder.layer[layer] for layer in layers]
        for ours, pick in (
            (block(student, group).ffn.weight, lambda layer: layer.intermediate.dense.weight),
            (block(student, group).attention.key.bias, lambda layer: layer.attention.self.key.bias),
            (block(student, group).full_layer_layer_norm.weight, lambda layer: layer.output.LayerNorm.weight),
            (block(student, group).attention.LayerNorm.bias, lambda layer: layer.attention.output.LayerNorm.bias),
        ):
            torch.testing.assert_close(ours, (pick(theirs[0]) + pick(theirs[1])) / 2)
    assert report.layer_map == {0: [0, 1], 1: [0, 1], 2: [2, 3], 3: [2, 3]}


def test_albert_block_is_the_first_of_its_range_when_init_is_first(bert):
    student, report = build_albert(bert, num_groups=2, init="first", layers=[1, 2, 3])
    assert report.layer_map == {0: [1], 1: [1], 2: [3], 3: [3]}
    assert torch.equal(block(student, 1).ffn_output.weight, bert.bert.encoder.layer[3].output.dense.weight)
    assert report.source["bert.encoder.layer.2.output.dense.weight"] == "unused: layer 2 not taken"


@pytest.mark.parametrize(("num_layers", "num_groups"), [(5, 3), (4, 4), (7, 2), (2, 1)])
def test_albert_layer_map_names_the_blocks_that_run_when_groups_are_uneven(bert, batch, num_layers, num_groups):
    student, report = build_albert(bert, num_layers=num_layers, num_groups=num_groups)
    ran = []
    for group, module in enumerate(student.albert.encoder.albert_layer_groups):
        module.register_forward_pre_hook(lambda *_, group=group: ran.append(group))
    student(**batch)
    of_group = list(dict.fromkeys(tuple(layers) for layers in report.layer_map.values()))
    assert [of_group.index(tuple(layers)) for layers in report.layer_map.values()] == ran
    assert sorted(layer for layers in of_group for layer in layers) == [0, 1, 2, 3]


def test_albert_gives_the_blocks_output_when_every_layer_has_its_own_block(bert, batch):
    student, _ = build_albert(bert, num_groups=4)
    with torch.no_grad():
        hidden = bert.bert.embeddings(batch["input_ids"])
        theirs, ours = hidden, hidden
        for layer, group in zip(
            bert.bert.encoder.layer, student.eval().albert.encoder.albert_layer_groups, strict=True
        ):
            theirs, ours = layer(theirs), group(ours)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_albert_head_is_the_sources_in_the_word_basis_when_the_basis_is_whole(bert):
    head, transform = build_albert(bert).model.predictions, bert.cls.predictions.transform
    words = bert.bert.embeddings.word_embeddings.weight
    torch.testing.assert_close(
        head.decoder.weight @ head.dense.weight, words @ transform.dense.weight, atol=1e-4, rtol=0
    )
    torch.testing.assert_close(head.decoder.weight @ head.dense.bias, words @ transform.dense.bias, atol=1e-4, rtol=0)
    shift = words @ transform.LayerNorm.bias
    torch.testing.assert_close(head.decoder.weight @ head.LayerNorm.bias, shift, atol=1e-4, rtol=0)
    torch.testing.assert_close(head.LayerNorm.weight.norm(), transform.LayerNorm.weight.norm())
    assert torch.equal(head.decoder.bias, bert.cls.predictions.decoder.bias)


def test_albert_decoder_is_tied_when_the_sources_is(make_source):
    tied = build_albert(make_source("bert")).model
    assert tied.predictions.decoder.weight is tied.albert.embeddings.word_embeddings.weight
    source = make_source("bert", tie_word_embeddings=False)
    untied, report = build_albert(source)
    basis_free = untied.predictions.decoder.weight @ untied.albert.embeddings.word_embeddings.weight.T
    expected = source.cls.predictions.decoder.weight @ source.bert.embeddings.word_embeddings.weight.T
    torch.testing.assert_close(basis_free, expected, atol=1e-4, rtol=0)
    assert report.student["predictions.decoder.weight"].startswith("projected")


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "modernbert", "distilbert"])
def test_albert_is_random_from_any_source_when_init_is_random(make_source, batch, model_type):
    source = make_source(model_type)
    torch.manual_seed(7)
    student, report = build_albert(source, init="random")
    torch.manual_seed(7)
    again, _ = build_albert(source, init="random")
    assert student(**batch).logits.shape == (2, 12, 120)
    assert all(map(torch.equal, student.parameters(), again.parameters()))
    assert {how.split(" ")[0] for how in report.student.values()} == {"initialised:", "tied"}
    assert {use.split(" ")[0] for use in report.source.values()} <= {"unused:", "tied"}
    assert report.layer_map == {}
    assert student.config.intermediate_size == 48


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"embedding_size": 0}, "student.embedding_size"),
        ({"embedding_size": 33}, "student.embedding_size"),
        ({"num_layers": 0}, "student.num_layers"),
        ({"num_groups": 0}, "student.num_groups"),
        ({"num_groups": 5}, "student.num_groups"),
        ({"num_layers": 6, "num_groups": 5}, "student.num_groups"),
        ({"num_layers": 2, "num_groups": 3}, "student.num_groups"),
        ({"layers": [0, 9]}, "student.layers"),
        ({"layers": [0], "init": "random"}, "student.layers"),
        ({"init": "middle"}, "student.init"),
        ({"dropout": 1.5}, "student.dropout"),
    ],
)
def test_albert_names_the_key_when_an_argument_is_out_of_range(bert, settings, key):
    with pytest.raises(ConfigError) as caught:
        build_albert(bert, **settings)
    assert caught.value.key == key


def test_albert_offers_a_random_start_when_the_source_is_no_bert(make_source):
    with pytest.raises(ConfigError, match=r"roberta.*allowed: random"):
        build_albert(make_source("roberta"))


def test_albert_names_the_missing_size_when_the_source_has_none(make_source):
    with pytest.raises(TeacherError, match="xlm source has none of"):
        build_albert(make_source("xlm"), init="random")


def test_albert_has_bert_s_pooler_and_a_fresh_head_when_order_is_trained(make_source):
    source = make_source("bert", type_vocab_size=1)
    source.bert.pooler = BertPooler(source.config)
    student, report = build_albert(source, sop=1.0)
    assert type(student) is AlbertForPreTraining
    assert torch.equal(student.albert.pooler.weight, source.bert.pooler.dense.weight)
    assert report.student["sop_classifier.classifier.weight"].startswith("initialised: random")
    assert student.config.type_vocab_size == 2, "two segments must be told apart"


@pytest.mark.parametrize("init", ["average", "random"])
def test_albert_starts_a_pooler_anew_when_the_source_has_none(bert, init):
    student, report = build_albert(bert, init=init, sop=1.0)
    assert report.student["albert.pooler.weight"].startswith("initialised: random")
    assert student.albert.pooler.weight.std() > 0
    plain = build_albert(bert, init=init).model
    assert type(plain) is AlbertForMaskedLM
    assert plain.albert.pooler is None


def types_of(student):
    return student.albert.embeddings.token_type_embeddings.weight.detach()


def test_albert_tells_token_types_apart_when_order_is_trained(bert):
    nearly_one = bert.bert.embeddings.token_type_embeddings.weight
    with torch.no_grad():
        nearly_one[1] = nearly_one[0] + 0.01 * torch.randn(len(nearly_one[0]), generator=torch.manual_seed(0))
    plain, (student, report) = build_albert(bert).model, build_albert(bert, sop=1.0)
    words = student.albert.embeddings.word_embeddings.weight.detach()
    types, before = types_of(student), types_of(plain)
    assert torch.equal(words, plain.albert.embeddings.word_embeddings.weight)
    torch.testing.assert_close((types[1] - types[0]).norm(), words.norm(dim=1).mean())
    torch.testing.assert_close(types.mean(0), before.mean(0))  # each moved by half
    cosine = torch.cosine_similarity(types[1] - types[0], before[1] - before[0], dim=0)
    assert cosine > 0.9999, "along the way they differed"
    assert report.student["albert.embeddings.token_type_embeddings.weight"].endswith(", told apart")
    mapping = "albert.encoder.embedding_hidden_mapping_in.weight"
    assert torch.equal(student.state_dict()[mapping], plain.state_dict()[mapping]), "fitted to the source as it is"


def test_albert_keeps_token_types_when_they_differ_enough(bert):
    with torch.no_grad():
        bert.bert.embeddings.token_type_embeddings.weight[1] += 5.0
    plain, (student, report) = build_albert(bert), build_albert(bert, sop=1.0)
    assert torch.equal(types_of(student), types_of(plain.model))
    name = "albert.embeddings.token_type_embeddings.weight"
    assert report.student[name] == plain.report.student[name], "and claims no more"


def test_albert_tells_token_types_apart_when_the_source_knows_one(make_source):
    student = build_albert(make_source("bert", type_vocab_size=1), sop=1.0).model
    first, second = types_of(student)
    words = student.albert.embeddings.word_embeddings.weight
    torch.testing.assert_close((second - first).norm(), words.norm(dim=1).mean())
    assert (second - first).count_nonzero() == 1, "in the direction in which words differ least"
