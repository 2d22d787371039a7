"""Encoding without padding gives what the stock model gives with it, for every class that takes rows."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from distillkit import encoding
from distillkit.encoding import encode, takes_rows
from distillkit.layout import lay_out, with_layout
from distillkit.types import IGNORE_INDEX, Batch
from tests.parity.models import make_batch, tiny_model

TAKE_ROWS = ["bert", "distilbert", "albert", "roberta", "electra", "modernbert"]
PAD = ["mpnet", "deberta-v2", "convbert"]
LENGTHS = (12, 5, 9, 12, 3, 1)


def stock_rows(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """[N, H] from the model's own padded forward, in the layout's order."""
    layout = with_layout(batch).layout
    assert layout is not None
    padded = model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)[0]
    return padded.flatten(0, 1)[layout.attended]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("model_type", [*TAKE_ROWS, *PAD])
def test_encode_gives_the_stock_states_when_rows_differ_in_length(model_type: str, packed: bool) -> None:
    stock, model = (tiny_model(model_type, attention=None).double() for _ in range(2))
    batch = make_batch(LENGTHS, packed=packed)
    torch.testing.assert_close(encode(model, batch), stock_rows(stock, batch), rtol=1e-11, atol=1e-11)
    assert takes_rows(model) == (model_type in TAKE_ROWS)


@pytest.mark.parametrize("model_type", ["bert", "albert", "modernbert"])
def test_encode_gives_the_stock_gradients_when_rows_differ_in_length(model_type: str) -> None:
    stock, model, batch = *(tiny_model(model_type, attention="sdpa") for _ in range(2)), make_batch(LENGTHS)
    encode(model, batch).square().mean().backward()
    stock_rows(stock, batch).square().mean().backward()
    grads = [{n: p.grad for n, p in m.named_parameters() if p.grad is not None} for m in (model, stock)]
    largest = max(float(grad.abs().max()) for grad in grads[1].values())
    assert grads[0].keys() == grads[1].keys()
    assert all((grads[0][name] - grads[1][name]).abs().max() <= 1e-5 * largest for name in grads[1])


def test_encode_honours_the_sliding_window_when_rows_are_longer() -> None:
    stock, model = (tiny_model("modernbert", attention="sdpa", local_attention=6).double() for _ in range(2))
    wide = tiny_model("modernbert", attention="sdpa", local_attention=64).double()
    batch = make_batch((30, 17, 8))
    assert takes_rows(model)
    torch.testing.assert_close(encode(model, batch), stock_rows(stock, batch), rtol=1e-11, atol=1e-11)
    assert (encode(wide, batch) - encode(model, batch)).abs().max() > 1e-3


def test_encode_computes_no_padding_when_rows_differ_in_length() -> None:
    model, batch = tiny_model("bert", attention="sdpa"), make_batch(LENGTHS)
    seen = []
    encode(model, batch)
    model.bert.encoder.layer[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    encode(model, batch)
    assert seen == [(1, sum(LENGTHS), 32)]


def test_encode_pads_with_the_stock_attention_when_told_to() -> None:
    model, batch = tiny_model("bert", attention="sdpa"), make_batch(LENGTHS)
    encoding.keep_padding(model)
    torch.testing.assert_close(encode(model, batch), stock_rows(tiny_model("bert", attention="sdpa"), batch))
    assert model.config._attn_implementation == "sdpa" and not takes_rows(model)


def test_takes_rows_leaves_mode_and_random_state_when_it_tries() -> None:
    model = tiny_model("bert", attention="sdpa", hidden_dropout_prob=0.5).train()
    state = torch.get_rng_state()
    assert takes_rows(model)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


def test_takes_rows_is_false_when_the_models_attention_is_eager() -> None:
    assert not takes_rows(tiny_model("bert", attention="eager"))


def test_takes_rows_is_false_when_it_is_not_our_attention_even_where_no_state_shows_it_yet() -> None:
    model = tiny_model("bert", attention="eager")
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
    assert not takes_rows(model)


def test_takes_rows_is_false_when_a_model_counts_positions_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert", attention="sdpa")
    stock = model.bert.embeddings.forward
    monkeypatch.setattr(model.bert.embeddings, "forward", lambda *a, position_ids=None, **k: stock(*a, **k))
    assert not takes_rows(model)


@pytest.mark.parametrize(("model_type", "tokens"), [("bert", 40), ("roberta", 39)])
def test_longest_row_leaves_out_the_positions_that_padding_takes(model_type: str, tokens: int) -> None:
    assert encoding.longest_row(tiny_model(model_type)) == tokens


# --- the layout ----------------------------------------------------------------------------------------------------


def test_layout_lists_rows_by_length_and_predictions_first_when_padded() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]])
    labels = torch.full((3, 4), IGNORE_INDEX)
    labels[0, 1] = labels[2, 0] = 5
    layout = lay_out(mask, labels)
    assert layout.rows.tolist() == [1, 2, 0]
    assert layout.lengths == (1, 2, 3)
    assert layout.starts.tolist() == [0, 1, 3, 6]
    assert layout.attended.tolist() == [4, 8, 9, 0, 1, 2]
    assert layout.order.tolist() == [1, 4, 0, 2, 3, 5]
    assert layout.predictions == 2


def test_layout_is_every_position_when_nothing_is_padded() -> None:
    labels = torch.full((2, 3), IGNORE_INDEX)
    layout = lay_out(None, labels)
    assert layout.attended.tolist() == [*range(6)] and layout.lengths == (3, 3) and layout.predictions == 0
