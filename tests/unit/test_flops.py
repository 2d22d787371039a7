"""Operations of models and of steps, against formulas."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DebertaV2Config, DebertaV2ForMaskedLM

from distillkit import flops as flops_module
from distillkit.flops import flops_per_token, model_flops
from distillkit.objective import HiddenCosineTerm, MaskedLMTerm, Objective, SoftTargetTerm, Term
from distillkit.sharing import PARTS, share_layers
from distillkit.training.speed import step_flops
from distillkit.types import StepTotals
from tests.faults.harness import make_bert
from tests.parity.models import FrozenTeacher, make_batch, tiny_model


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


@pytest.mark.parametrize("kind", ["bert", "albert", "distilbert"])
def test_step_is_what_torch_counts_of_plain_forward_and_backward_when_every_position_has_a_loss(kind: str) -> None:
    student, teacher = tiny_model(kind, num_hidden_layers=3), tiny_model("bert", num_hidden_layers=4)
    batch = make_batch((12,) * 8, packed=True)
    flops = step_flops(student, FrozenTeacher(teacher), Objective({"ce": SoftTargetTerm()}))
    with FlopCounterMode(display=False) as counter:
        teacher(input_ids=batch.input_ids)
        student(input_ids=batch.input_ids).logits.sum().backward()
    assert flops is not None and flops.of(batch.totals, 12) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    ("terms", "teachers", "rows", "teachers_rows"),
    [
        ({"ce": SoftTargetTerm(), "mlm": MaskedLMTerm(), "cos": HiddenCosineTerm()}, 100, 100, 100),
        ({"ce": SoftTargetTerm(positions="predicted"), "mlm": MaskedLMTerm()}, 100, 15, 15),
        ({"mlm": MaskedLMTerm(), "cos": HiddenCosineTerm()}, 100, 15, 0),
        ({"cos": HiddenCosineTerm()}, 100, 0, 0),
        ({"mlm": MaskedLMTerm()}, 0, 15, 0),
    ],
)
def test_step_counts_what_its_terms_need_when_some_are_missing(
    terms: dict[str, Term], teachers: int, rows: int, teachers_rows: int
) -> None:
    model = tiny_model("bert")
    one = model_flops(model)
    flops = step_flops(model, FrozenTeacher(model), Objective(terms, student_width=32, teacher_width=32))
    assert one is not None and flops is not None
    expected = (100 * 3 + teachers) * one.encoder(20) + (3 * rows + teachers_rows) * one.head
    assert flops.of(StepTotals(100, 15), 20) == pytest.approx(expected)


def test_operations_grow_with_the_length_of_a_row_as_attention_does() -> None:
    model = make_bert(hidden_size=32, num_hidden_layers=2)
    flops = model_flops(model)
    assert flops is not None and flops.pair == pytest.approx(2 * 4 * 32)
    assert flops.encoder(24) == pytest.approx(flops_per_token(model, length=24))
    assert flops.head == pytest.approx(2 * (32 * 32 + 32 * 100), rel=0.05)


def test_model_and_randomness_are_left_alone_when_counted() -> None:
    model = make_bert().train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model_flops(model)
    assert torch.equal(torch.rand(3), expected)
    assert model.training and all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_operations_are_unknown_when_torch_cannot_count_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(flops_module, "_encoder", refuse)
    model = make_bert()
    assert model_flops(model) is None and flops_per_token(model, length=8) is None
    assert step_flops(model, None, Objective({"mlm": MaskedLMTerm()})) is None
