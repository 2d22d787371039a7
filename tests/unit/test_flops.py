"""Operations of models and of steps, against formulas."""

from __future__ import annotations

import pytest
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from distillkit.flops import flops_per_token
from distillkit.sharing import PARTS, share_layers
from tests.faults.harness import make_bert
from tests.parity.models import tiny_model


@pytest.mark.parametrize(("hidden", "layers", "feed_forward"), [(32, 4, 64), (96, 2, 200)])
def test_operations_are_those_of_the_formula_when_bert_reads_a_text(
    hidden: int, layers: int, feed_forward: int
) -> None:
    model = make_bert(hidden_size=hidden, num_hidden_layers=layers, intermediate_size=feed_forward)
    for length in (16, 64):
        layer = 2 * (4 * hidden**2 + 2 * hidden * feed_forward) + 4 * length * hidden
        assert flops_per_token(model, length=length) == pytest.approx(layers * layer, rel=0.01)


def test_operations_are_those_of_the_positions_when_the_text_is_cut() -> None:
    model = make_bert()
    assert flops_per_token(model, length=128) == flops_per_token(model, length=64)


def test_operations_count_every_use_when_layers_are_shared() -> None:
    found = [
        flops_per_token(
            tiny_model("albert", attention="sdpa", num_hidden_layers=layers, num_hidden_groups=groups), length=40
        )
        for layers, groups in ((4, 1), (4, 4), (1, 1))
    ]
    projection, layer = 2 * 16 * 32, 2 * (4 * 32**2 + 2 * 32 * 48) + 4 * 40 * 32
    assert found == pytest.approx([projection + 4 * layer, projection + 4 * layer, projection + layer], rel=0.01)


def test_operations_are_counted_when_positions_are_relative_and_trained() -> None:
    config = DebertaV2Config(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        relative_attention=True, pos_att_type=["c2p", "p2c"], max_position_embeddings=64,
    )  # fmt: skip
    found = flops_per_token(DebertaV2ForMaskedLM(config), length=16)
    assert found is not None and found > 2 * 2 * (4 * 32**2 + 2 * 32 * 64)


@pytest.mark.parametrize("part", PARTS)
def test_operations_are_as_many_when_a_part_is_shared(part: str) -> None:
    model = tiny_model("albert", attention="sdpa", num_hidden_layers=3, num_hidden_groups=3)
    before = flops_per_token(model, length=40)
    share_layers(model, part)
    assert flops_per_token(model, length=40) == before
