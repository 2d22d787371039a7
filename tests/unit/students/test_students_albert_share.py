"""ALBERT students whose layers share all, attention, FFN or nothing: how large they are, and what they start from."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from distillkit import building, config
from distillkit.albert_shape import SHARES
from distillkit.errors import ConfigError
from distillkit.sharing import PARTS
from distillkit.students import build_albert, count_parameters, transfer
from tests.faults.harness import WORDS, make_tokenizer

MODES = pytest.mark.parametrize("share", SHARES)
BASE: dict[str, Any] = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072}
TINY: dict[str, Any] = {"hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 48}
MILLIONS = {
    64: (9.68, 61.65, 35.68, 87.65),
    128: (11.68, 63.65, 37.69, 89.65),
    256: (15.69, 67.65, 41.69, 93.65),
    768: (31.71, 83.67, 57.71, 109.67),
}
"""E -> unique parameters with share=all, attention, ffn and none: ALBERT base with pooler, without masked-LM head."""
EXACT = (11_683_584, 63_647_232, 37_686_528, 89_650_176)
"""The same at E = 128."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Of the paper's 30,000 ids."""
    return make_tokenizer([f"w{number}" for number in range(29_995)])


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without storage have no distribution to report."""
    monkeypatch.setattr(transfer, "_distribution", lambda weight: "not measured")


def with_pooler(model: PreTrainedModel) -> tuple[int, int]:
    """Unique and nominal parameters as the paper counts them: with a pooler, without the masked-LM head."""
    count, width = count_parameters(model), model.config.hidden_size
    rest = width * width + width - count.parts["head"]
    return count.unique + rest, count.nominal + rest


def layers_of(student: PreTrainedModel) -> list[nn.Module]:
    return [group.albert_layers[0] for group in student.albert.encoder.albert_layer_groups]


# --- counts ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unmeasured")
@MODES
@pytest.mark.parametrize("embedding_size", MILLIONS)
def test_count_is_that_of_the_sharing_table_when_the_size_is_base(
    embedding_size: int, share: Any, tokenizer: PreTrainedTokenizerFast
) -> None:
    with torch.device("meta"):
        student = build_albert(
            None, tokenizer=tokenizer, share=share, embedding_size=embedding_size, init="random", **BASE
        ).model
    unique, nominal = with_pooler(student)
    assert round(unique / 1e6, 2) == MILLIONS[embedding_size][SHARES.index(share)]
    assert round(nominal / 1e6, 2) == MILLIONS[embedding_size][SHARES.index("none")]
    if embedding_size == 128:
        assert (unique, nominal) == (EXACT[SHARES.index(share)], EXACT[SHARES.index("none")])


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("size", "encoder", "masked_lm"),
    [
        ("base", 11_683_584, 11_221_680),
        ("large", 17_683_968, 16_795_824),
        ("xlarge", 58_724_864, 54_821_040),
        ("xxlarge", 222_595_584, 206_368_944),
    ],
)
def test_count_is_the_published_one_when_a_size_of_conf_is_built(
    size: str, encoder: int, masked_lm: int, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLKIT_RUN_DIR", "unused")
    words = ["teacher=none", "tokenizer.path=folder", "data=demo", "run.dir=unused", f"student=albert_{size}"]
    cfg = config.settle(*config.load("train", words))
    with torch.device("meta"):
        student = building.build_student(cfg, None, tokenizer).model
    assert (with_pooler(student)[0], count_parameters(student).unique) == (encoder, masked_lm)
    found = student.config
    assert (found.hidden_act, found.hidden_dropout_prob, found.attention_probs_dropout_prob) == ("gelu_new", 0, 0)
    assert found.hidden_size == 64 * found.num_attention_heads and found.intermediate_size == 4 * found.hidden_size


# --- a start from nothing ------------------------------------------------------------------------------------------


@MODES
def test_student_has_its_own_sizes_when_there_is_no_source(share: Any) -> None:
    student, report = build_albert(None, tokenizer=make_tokenizer(), share=share, init="random", **TINY)
    found = student.config
    assert (found.vocab_size, found.hidden_size, found.num_hidden_layers) == (5 + len(WORDS), 32, 3)
    assert (found.embedding_size, found.num_attention_heads, found.intermediate_size) == (32, 4, 48)
    assert (found.max_position_embeddings, found.type_vocab_size, found.hidden_act) == (512, 2, "gelu_new")
    assert (found.pad_token_id, found.hidden_dropout_prob) == (0, 0.0)
    assert report.source == {} and report.layer_map == {}
    assert student.predictions.decoder.weight is student.albert.embeddings.word_embeddings.weight
    ids = torch.arange(5, 25)[None]
    assert student(input_ids=ids).logits.shape == (1, 20, 100)


def test_matrices_are_cut_off_at_two_deviations_when_random() -> None:
    sizes = TINY | {"hidden_size": 64, "intermediate_size": 128}
    student = build_albert(None, tokenizer=make_tokenizer(), init="random", **sizes).model
    matrices = [weight for weight in student.parameters() if weight.dim() > 1]
    values = torch.cat([weight.detach().flatten() for weight in matrices])
    assert len(values) > 40_000 and float(values.abs().max()) <= 0.04
    assert all(float(weight.detach().abs().max()) > 0.03 for weight in matrices)
    # the deviation of a normal distribution cut off at two deviations is 0.8796 of it
    assert float(values.std()) == pytest.approx(0.02 * 0.8796, rel=0.02)
    for name, weight in student.named_parameters():
        if weight.dim() == 1:
            expected = "LayerNorm.weight" in name or "layer_norm.weight" in name
            assert bool((weight == float(expected)).all()), name


def test_random_start_takes_another_size_when_the_source_is_a_bert(bert: BertForMaskedLM) -> None:
    student = build_albert(bert, init="random", hidden_size=48, num_heads=3, num_layers=2).model
    found = (student.config.hidden_size, student.config.num_attention_heads, student.config.num_hidden_layers)
    assert found == (48, 3, 2)
    assert (student.config.vocab_size, student.config.intermediate_size) == (120, 48)


@pytest.mark.parametrize(
    ("source", "settings", "key"),
    [
        (False, {"init": "random"} | TINY | {"num_heads": None}, "student.num_heads"),
        (False, TINY, "student.init"),
        (True, {"hidden_size": 64}, "student.hidden_size"),
        (True, {"intermediate_size": 64}, "student.intermediate_size"),
        (True, {"max_positions": 20}, "student.max_positions"),
        (True, {"activation": "geluu"}, "student.activation"),
        (True, {"share": "ffn", "num_groups": 2}, "student.num_groups"),
        (True, {"share": "ffn", "num_layers": 6}, "student.num_layers"),
        (True, {"share": "none", "layers": [0, 1]}, "student.num_layers"),
    ],
)
def test_albert_names_the_key_when_its_start_does_not_give_what_it_needs(
    source: bool, settings: dict[str, Any], key: str, bert: BertForMaskedLM
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_albert(bert if source else None, tokenizer=None if source else make_tokenizer(), **settings)
    assert caught.value.key == key


def test_start_from_nothing_is_refused_when_no_tokenizer_gives_the_vocabulary() -> None:
    with pytest.raises(ConfigError) as caught:
        build_albert(None, init="random", **TINY)
    assert caught.value.key == "tokenizer.path"


# --- a start from a BERT -------------------------------------------------------------------------------------------

ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output")
FFN = ("intermediate", "output")


@pytest.mark.parametrize("init", ["average", "first"])
@MODES
def test_layers_compute_what_berts_do_when_those_share_alike(share: Any, init: Any, bert: BertForMaskedLM) -> None:
    student, report = build_albert(bert, share=share, init=init, num_groups=None if share != "all" else 1)
    layers = copy.deepcopy(bert.bert.encoder.layer)
    common = {"all": ATTENTION + FFN, "attention": ATTENTION, "ffn": FFN, "none": ()}[share]
    for layer in layers:
        for part in common:
            for name, weight in layer.get_submodule(part).named_parameters():
                of_all = [origin.get_submodule(part).get_parameter(name) for origin in bert.bert.encoder.layer]
                weight.data = torch.stack(of_all).mean(0) if init == "average" else of_all[0].clone()
    with torch.no_grad():
        theirs = ours = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
        own = layers_of(student.eval())
        for index, layer in enumerate(layers):
            theirs, ours = layer(theirs), own[index if share != "all" else 0](ours)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    of_all = [0, 1, 2, 3] if init == "average" else [0]
    assert report.shared_map == ({share: of_all} if share in PARTS else {})
    assert report.layer_map == {layer: of_all if share == "all" else [layer] for layer in range(4)}


def test_account_says_what_was_left_when_a_part_of_one_layer_serves_all(bert: BertForMaskedLM) -> None:
    student, report = build_albert(bert, share="attention", init="first", num_layers=2, layers=[1, 3])
    left = {use.partition("unused: ")[2] for use in report.source.values() if "unused: " in use}
    assert left == {"all layers share the attention of another", "layer 0 not taken", "layer 2 not taken"}
    own, other = "bert.encoder.layer.3.output.dense.weight", "bert.encoder.layer.3.attention.self.key.weight"
    assert report.source[own].startswith("used in ") and report.source[other].startswith("unused: ")
    first, second = layers_of(student)
    assert first.attention.key is second.attention.key and first.ffn is not second.ffn
    assert "attention of all layers <- 1" in report.summary() and "layers: 0 <- 1, 1 <- 3" in report.summary()
