"""The attention that replaces SDPA inside stock models: the stock one's values, and no trace in what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillkit.attention import NAME, interface, products, use_quick_attention
from tests.parity.models import tiny_model

IDS = torch.arange(1, 25).reshape(2, 12)
MASK = torch.ones_like(IDS)
MASK[1, 7:] = 0


@pytest.mark.parametrize("longest", [512, 4], ids=["products", "fused"])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert", "roberta", "modernbert"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["packed", "padded"])
def test_quick_attention_gives_the_stock_gradients_when_in_float64(
    model_type: str, mask: torch.Tensor | None, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "LONGEST_PRODUCT", longest)
    stock, quick = (tiny_model(model_type, attention="sdpa").double() for _ in range(2))
    use_quick_attention(quick)
    assert quick.config._attn_implementation == NAME
    for model in (stock, quick):
        model(input_ids=IDS, attention_mask=mask).logits[MASK.bool()].square().mean().backward()
    grads = [{n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (stock, quick)]
    assert grads[0]
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, rtol=0, atol=1e-12 * float(expected.abs().max() + 1))


@pytest.mark.parametrize("mask", [None, MASK], ids=["packed", "padded"])
def test_quick_attention_is_no_less_exact_than_the_stock_one_when_under_autocast(mask: torch.Tensor | None) -> None:
    stock, quick = (tiny_model("bert", attention="sdpa") for _ in range(2))
    use_quick_attention(quick)
    exact = stock(input_ids=IDS, attention_mask=mask).logits[MASK.bool()]
    errors = []
    for model in (stock, quick):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=IDS, attention_mask=mask).logits[MASK.bool()]
        errors.append(float((logits - exact).detach().square().mean().sqrt()))
    assert 0 < errors[1] < 1.3 * errors[0]


@pytest.mark.parametrize("kept", [2**23, 100], ids=["kept", "computed again"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_products_have_the_numerical_gradient_when_checked_by_differences(
    dropout: float, masked: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_KEPT", kept)
    torch.manual_seed(0)
    inputs = [torch.randn(3, 2, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.rand(3, 1, 5, 5) < 0.7 if masked else None
    if mask is not None:
        mask[..., 0] = True

    def call(*rows: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return products.attend(*rows, mask, dropout=dropout, scaling=0.5)

    assert torch.autograd.gradcheck(call, inputs)


def test_products_drop_the_share_asked_for_and_keep_the_mean_when_they_drop() -> None:
    torch.manual_seed(0)
    query, key, value = torch.zeros(4, 2, 64, 8), torch.zeros(4, 2, 64, 8), torch.ones(4, 2, 64, 8)
    dropped = [products.attend(query, key, value, None, dropout=0.25, scaling=1.0) for _ in range(2)]
    assert not torch.equal(*dropped)
    each = dropped[0] * 64 * 0.75  # how many of 64 equal probabilities were kept
    torch.testing.assert_close(each.round(), each, rtol=0, atol=0.01)
    assert dropped[0].mean() == pytest.approx(1.0, abs=0.02)
    assert each[..., 0].var() == pytest.approx(64 * 0.25 * 0.75, rel=0.2)


def test_quick_attention_leaves_other_choices_alone_when_asked(tmp_path: Path) -> None:
    eager = tiny_model("bert", attention="eager")
    use_quick_attention(eager)
    assert eager.config._attn_implementation == "eager"
    quick = tiny_model("bert", attention="sdpa")
    use_quick_attention(quick)
    quick.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
