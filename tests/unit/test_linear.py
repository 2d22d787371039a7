"""Linear layers through oneDNN are nn.Linear to rounding, and to everything that looks at them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from distillkit import linear
from distillkit.linear import QuickLinear, shared_copies, use_quick_linears
from tests.parity.models import make_batch, tiny_model

SHAPES = [(7, 5), (2, 7, 5), (1, 1, 5), (0, 5)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_quick_linear_gives_the_stock_values_and_gradients_when_in_float32(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    stock = nn.Linear(5, 9, bias=bias)
    quick = QuickLinear(5, 9, bias=bias)
    quick.load_state_dict(stock.state_dict())
    rows = torch.randn(shape)
    grads = []
    for layer in (stock, quick):
        leaf = rows.clone().requires_grad_()
        layer(leaf).square().sum().backward()
        grads.append([leaf.grad, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_quick_linear_is_the_stock_one_when_not_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_product", None)
    layer = QuickLinear(5, 9).to(dtype)
    rows = torch.randn(3, 5, dtype=dtype)
    assert torch.equal(layer(rows), nn.functional.linear(rows, layer.weight, layer.bias))
    whole = QuickLinear(5, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert whole(torch.randn(3, 5)).dtype == torch.bfloat16


def _attention_like(layers: list[nn.Linear], rows: torch.Tensor, others: torch.Tensor) -> list[torch.Tensor]:
    return [layers[0](rows), layers[1](rows), layers[2](others), layers[0](rows)]


def test_layers_on_one_input_keep_one_copy_of_it_when_copies_are_shared() -> None:
    torch.manual_seed(0)
    layers: list[nn.Linear] = [QuickLinear(5, 9) for _ in range(3)]
    rows, others = torch.randn(4, 5), torch.randn(4, 5)
    kept: list[int] = []

    def note(saved: torch.Tensor) -> torch.Tensor:
        if saved.shape == rows.shape and saved.dtype == torch.bfloat16:
            kept.append(saved.data_ptr())
        return saved

    with torch.autocast("cpu", torch.bfloat16):
        plain = _attention_like(layers, rows, others)
        with shared_copies(), torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            shared = _attention_like(layers, rows, others)
    assert kept[0] == kept[1] and len(set(kept)) == 3  # after another input the first is copied anew
    assert all(torch.equal(a, b) for a, b in zip(plain, shared, strict=True))
    assert not linear._last, "no activation outlives the encoder's pass"


def test_shared_copies_give_the_gradients_of_separate_ones() -> None:
    torch.manual_seed(0)
    layers: list[nn.Linear] = [QuickLinear(32, 48) for _ in range(3)]
    grads = []
    for share in (nullcontext, shared_copies):
        leaf = torch.linspace(-1, 1, 16 * 32).view(16, 32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), share():
            sum(out.float().square().sum() for out in _attention_like(layers, leaf, leaf * 2)).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads, rtol=0, atol=2**-7 * float(grads[0].abs().max()))


def test_quick_linears_leave_weights_ties_and_folder_alone_when_given_to_a_model(tmp_path: Path) -> None:
    model, stock = (tiny_model("albert", attention="sdpa") for _ in range(2))
    names = [name for name, _ in model.named_parameters()]
    use_quick_linears(model)
    assert any(type(module) is QuickLinear for module in model.modules())
    assert [name for name, _ in model.named_parameters()] == names
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    batch = make_batch(packed=True)
    torch.testing.assert_close(model(input_ids=batch.input_ids).logits, stock(input_ids=batch.input_ids).logits)
    model.save_pretrained(tmp_path)
    assert "Quick" not in (tmp_path / "config.json").read_text()


def test_quick_linears_change_nothing_when_torch_lacks_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_has_product", lambda: False)
    model = tiny_model()
    use_quick_linears(model)
    assert not any(isinstance(module, QuickLinear) for module in model.modules())
