"""A stock model cut into encoder and head gives what the whole gives, for every architecture."""

from __future__ import annotations

import pytest
import torch

from distillkit.heads import apply_head, has_order_head, head_parameters, order_logits
from distillkit.objective import MaskedLMTerm, Objective
from tests.parity.models import VOCABULARY, make_batch, paired, tiny_model

ARCHITECTURES = ["bert", "distilbert", "albert", "roberta", "electra", "modernbert"]


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_head_gives_stock_logits_when_applied_to_chosen_rows(model_type: str) -> None:
    model, batch = tiny_model(model_type), make_batch()
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    chosen = batch.labels != -100
    with torch.no_grad():
        whole = model(**inputs).logits[chosen]
        rows = apply_head(model, model.base_model(**inputs)[0][chosen])
        again = model(**inputs).logits[chosen]
    torch.testing.assert_close(rows, whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(again, whole)


def test_both_heads_give_stock_logits_when_the_model_has_one_for_order() -> None:
    model, batch = tiny_model("albert", order=True), paired(make_batch())
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "token_type_ids": batch.segments}
    with torch.no_grad():
        whole, hidden = model(**inputs), model.base_model(**inputs)[0]
        torch.testing.assert_close(apply_head(model, hidden[0]), whole.prediction_logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(order_logits(model, hidden[:, 0]), whole.sop_logits, rtol=1e-5, atol=1e-5)
    assert has_order_head(model) and not has_order_head(tiny_model("albert"))


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_head_parameters_are_those_with_a_gradient_when_rows_are_given(model_type: str) -> None:
    model = tiny_model(model_type)
    apply_head(model, torch.randn(3, 32)).square().sum().backward()
    expected = {name for name, p in model.named_parameters() if p.grad is not None}
    found = [id(p) for p in head_parameters(model)]
    assert expected
    assert len(found) == len(set(found))
    assert {name for name, p in model.named_parameters() if id(p) in found} == expected


def test_head_parameters_leave_frozen_ones_out_and_no_gradient_behind() -> None:
    model = tiny_model()
    embeddings = model.get_input_embeddings().weight.requires_grad_(False)
    assert all(p is not embeddings for p in head_parameters(model))
    assert all(p.grad is None for p in model.parameters())


def test_encoder_trains_as_before_when_the_whole_head_is_frozen() -> None:
    gradients = []
    for freeze in (False, True):
        model, batch = tiny_model(), make_batch()
        if freeze:
            model.cls.requires_grad_(False)
            model.bert.embeddings.requires_grad_(False)
            assert head_parameters(model) == []
        Objective({"mlm": MaskedLMTerm()})(model, None, batch).loss.backward()
        gradients.append(model.bert.encoder.layer[0].output.dense.weight.grad)
    assert torch.equal(*gradients) and gradients[0].any()


def test_head_restores_encoder_when_it_raises() -> None:
    model = tiny_model()
    with pytest.raises(RuntimeError):
        apply_head(model, torch.randn(3, 31))
    logits = model(input_ids=make_batch().input_ids).logits
    assert logits.shape == (4, 12, VOCABULARY)


def test_head_gives_no_rows_when_given_none() -> None:
    assert apply_head(tiny_model(), torch.zeros(0, 32)).shape == (0, VOCABULARY)
