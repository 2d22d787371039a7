"""The attention that replaces SDPA inside stock models: the stock one's values, and no trace in what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillkit import attention
from distillkit.attention import NAME, use_quick_attention
from tests.parity.models import tiny_model

IDS = torch.arange(1, 25).reshape(2, 12)
MASK = torch.ones_like(IDS)
MASK[1, 7:] = 0


@pytest.mark.parametrize("longest", [512, 4], ids=["dense", "fused"])
@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert", "roberta", "modernbert"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["packed", "padded"])
def test_quick_attention_gives_the_stock_gradients_when_in_float64(
    model_type: str, mask: torch.Tensor | None, longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LONGEST_DENSE", longest)
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


def test_quick_attention_drops_probabilities_when_the_model_trains() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 64, 4) for _ in range(3))
    module = torch.nn.Module()
    kept, _ = attention._attend(module, query, key, value, None)
    dropped = torch.stack([attention._attend(module, query, key, value, None, dropout=0.5)[0] for _ in range(400)])
    assert not torch.equal(dropped[0], dropped[1])
    torch.testing.assert_close(dropped.mean(0), kept, rtol=0, atol=0.15)


def test_quick_attention_leaves_other_choices_alone_when_asked(tmp_path: Path) -> None:
    eager = tiny_model("bert", attention="eager")
    use_quick_attention(eager)
    assert eager.config._attn_implementation == "eager"
    quick = tiny_model("bert", attention="sdpa")
    use_quick_attention(quick)
    quick.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
