"""Sentence order against transformers' AlbertForPreTraining: the loss, its gradients, and who is told the segments."""

from __future__ import annotations

import copy

import pytest
import torch

from distillkit.encoding import encode
from distillkit.errors import ConfigError
from distillkit.evaluation.intrinsic import evaluate_model, evaluate_pair, intrinsic_terms
from distillkit.layout import with_layout
from distillkit.objective import MaskedLMTerm, Objective, SentenceOrderTerm
from distillkit.teachers import Teacher
from tests.parity.models import make_batch, paired, tiny_model

TOLERANCE = 2e-6
"""Of the loss, and of the gradient's largest entry: float32 sums in another order."""


def test_objective_is_the_stock_loss_when_mlm_and_order_weigh_one() -> None:
    model, batch = tiny_model("albert", order=True), paired(make_batch())
    stock = copy.deepcopy(model)
    theirs = stock(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, token_type_ids=batch.segments,
        labels=batch.labels, sentence_order_label=batch.swapped,
    ).loss  # fmt: skip
    theirs.backward()
    output = Objective({"mlm": MaskedLMTerm(), "sop": SentenceOrderTerm()})(model, None, batch)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(theirs.item(), rel=TOLERANCE)
    assert output.sums["sop"].count.item() == 4
    expected = {name: weight.grad for name, weight in stock.named_parameters() if weight.grad is not None}
    assert expected.keys() == {name for name, weight in model.named_parameters() if weight.grad is not None}
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (model.get_parameter(name).grad - gradient).abs().max() <= TOLERANCE * largest, name


def test_order_loss_adds_up_when_the_step_is_cut_into_micro_batches() -> None:
    model, batch = tiny_model("albert", order=True), paired(make_batch())
    objective = Objective({"sop": SentenceOrderTerm(2.0)})
    whole = objective(model, None, batch).loss.item()
    pieces = []
    for rows in (slice(0, 1), slice(1, 4)):
        names = ("input_ids", "attention_mask", "labels", "segments", "swapped")
        part = batch._replace(**{name: getattr(batch, name)[rows] for name in names})
        pieces.append(objective(model, None, part).loss.item())
    assert sum(pieces) == pytest.approx(whole, rel=1e-6)


def test_masked_lm_is_untouched_when_the_order_weighs_nothing() -> None:
    model, batch = tiny_model("albert", order=True), paired(make_batch())
    with_order = Objective({"mlm": MaskedLMTerm(), "sop": SentenceOrderTerm(0.0)})(model, None, batch)
    assert set(with_order.sums) == {"mlm"}
    assert with_order.loss.item() == Objective({"mlm": MaskedLMTerm()})(model, None, batch).loss.item()


def test_order_names_the_key_when_rows_are_no_pairs_or_the_student_has_no_head() -> None:
    objective, batch = Objective({"sop": SentenceOrderTerm()}), make_batch()
    with pytest.raises(ConfigError, match="no pairs"):
        objective(tiny_model("albert", order=True), None, batch)
    with pytest.raises(ConfigError, match="no head"):
        objective(tiny_model("albert"), None, paired(batch))


@pytest.mark.parametrize("model_type", ["bert", "albert", "electra"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_teacher_sees_the_segments_when_it_knows_two_token_types(model_type: str, attention: str) -> None:
    model, batch = tiny_model(model_type, attention=attention), paired(make_batch())
    with torch.no_grad():
        stock = model.base_model(batch.input_ids, batch.attention_mask, token_type_ids=batch.segments)[0]
    ours, layout = Teacher(model).hidden(batch), with_layout(batch).layout
    assert layout is not None
    assert (ours - stock.flatten(0, 1)[layout.attended]).abs().max() < 1e-5
    assert (ours - encode(model, batch._replace(segments=None))).abs().max() > 1e-3


@pytest.mark.parametrize("model_type", ["roberta", "distilbert", "modernbert"])
def test_teacher_is_not_told_segments_when_it_knows_none(model_type: str) -> None:
    settings = {"type_vocab_size": 1} if model_type == "roberta" else {}
    model, batch = tiny_model(model_type, **settings), paired(make_batch())
    assert torch.equal(Teacher(model).hidden(batch), Teacher(model).hidden(batch._replace(segments=None)))


def test_accuracy_counts_the_rows_that_are_named_rightly() -> None:
    model, batch = tiny_model("albert", order=True), paired(make_batch())
    with torch.no_grad():
        stock = model(batch.input_ids, batch.attention_mask, token_type_ids=batch.segments)
    named = stock.sop_logits.argmax(-1)
    batch = batch._replace(swapped=torch.tensor([named[0], named[1], named[2], 1 - named[3]]))
    figures, _ = evaluate_pair(model, [batch, batch], None, with_order=True)
    assert figures["sop_accuracy"] == 0.75
    expected = torch.nn.functional.cross_entropy(stock.sop_logits, batch.swapped)
    assert figures["sop_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert "sop_accuracy" not in evaluate_model(model, [batch], terms=intrinsic_terms(False))
