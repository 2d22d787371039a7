"""The student's attention: the stock one's values, a float32 backward pass, and no trace in what is exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillkit.attention import NAME, use_quick_attention
from tests.parity.models import SIZES, tiny_model

IDS = torch.arange(1, 25).reshape(2, 12)
MASK = torch.ones_like(IDS)
MASK[1, 7:] = 0


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert", "roberta", "modernbert"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["packed", "padded"])
def test_quick_attention_is_the_stock_one_when_in_float32(model_type: str, mask: torch.Tensor | None) -> None:
    stock, quick = (tiny_model(model_type, attention="sdpa") for _ in range(2))
    use_quick_attention(quick)
    assert quick.config._attn_implementation == NAME
    for model in (stock, quick):
        model(input_ids=IDS, attention_mask=mask).logits[MASK.bool()].square().mean().backward()
    grads = [{n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in (stock, quick)]
    assert grads[0] and all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


@pytest.mark.parametrize("mask", [None, MASK], ids=["packed", "padded"])
def test_quick_attention_computes_in_float32_when_training_in_bfloat16(
    mask: torch.Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    stock = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append(args[0].dtype)
        return stock(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    model = tiny_model("bert", attention="sdpa")
    use_quick_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=IDS, attention_mask=mask).logits
        with torch.no_grad():
            frozen = model(input_ids=IDS, attention_mask=mask).logits
    layers = SIZES["num_hidden_layers"]
    assert seen == [torch.float32] * layers + [torch.bfloat16] * layers
    whole = model(input_ids=IDS, attention_mask=mask).logits
    far = (logits - whole)[MASK.bool()].abs().max()
    assert far <= (frozen - whole)[MASK.bool()].abs().max() * 1.5 and far < 0.05 * whole.abs().max()


def test_quick_attention_leaves_other_choices_alone_when_asked(tmp_path: Path) -> None:
    eager = tiny_model("bert", attention="eager")
    use_quick_attention(eager)
    assert eager.config._attn_implementation == "eager"
    quick = tiny_model("bert", attention="sdpa")
    use_quick_attention(quick)
    quick.save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
