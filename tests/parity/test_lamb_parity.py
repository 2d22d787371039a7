"""LAMB against a plain transcription of ALBERT's own optimizer, on an ALBERT's weights, shared ones once."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from distillkit.training.optim import decay_groups, lamb
from tests.parity.models import tiny_model

RATE, BETAS, EPS, DECAY = 1.76e-3, (0.9, 0.999), 1e-6, 0.01
EXCLUDED = ("LayerNorm", "layer_norm", "bias")
TOLERANCE = 1e-6
"""Of the longest step: the library adds eps to the norm of the update, the original does not."""


class OriginalLamb:
    """The update of every weight by name, in float64; w, m and v are its whole state.

    Source: lamb_optimizer.py of google-research/albert, with exclude_from_weight_decay and
    exclude_from_layer_adaptation as its optimization.py sets them.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.w = {name: w.detach().double().clone() for name, w in weights.items()}
        self.m = {name: torch.zeros_like(w) for name, w in self.w.items()}
        self.v = {name: torch.zeros_like(w) for name, w in self.w.items()}

    def step(self, gradients: dict[str, Tensor]) -> None:
        for name, gradient in gradients.items():
            g, w, excluded = gradient.double(), self.w[name], any(part in name for part in EXCLUDED)
            self.m[name] = BETAS[0] * self.m[name] + (1 - BETAS[0]) * g
            self.v[name] = BETAS[1] * self.v[name] + (1 - BETAS[1]) * g**2
            update = self.m[name] / (self.v[name].sqrt() + EPS)
            ratio = torch.ones(())
            if not excluded:
                update = update + DECAY * w
                if w.norm() > 0 and update.norm() > 0:
                    ratio = w.norm() / update.norm()
            self.w[name] = w - ratio * RATE * update


def make(model: PreTrainedModel) -> Optimizer:
    return lamb(decay_groups(model), lr=RATE, betas=list(BETAS), eps=EPS, weight_decay=DECAY)


def draw_gradients(model: PreTrainedModel, step: int, scale: float = 1e-3) -> dict[str, Tensor]:
    """A random gradient of every weight, also put where the optimizer looks for it."""
    torch.manual_seed(100 + step)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["norms below 10", "norms beyond 10"])
def test_lamb_equals_alberts_own_when_stepped_in_float64(scale: float) -> None:
    model = tiny_model("albert").double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.get_input_embeddings().weight.data[:, 0] = 0
    original, optimizer = OriginalLamb(dict(model.named_parameters())), make(model)
    for step in range(5):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        original.step(draw_gradients(model, step))
        optimizer.step()
        for name, p in model.named_parameters():
            longest = (original.w[name] - before[name]).abs().max()
            assert (p - original.w[name]).abs().max() <= TOLERANCE * longest * (step + 1), (name, step)


def test_lamb_moves_a_weight_of_zeros_as_if_its_ratio_were_1() -> None:
    weight = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = lamb([{"params": [weight]}], lr=0.1, betas=BETAS, eps=EPS, weight_decay=DECAY)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3, 2), -0.1 * 0.1 / 0.001**0.5), rtol=1e-4, atol=0)


def test_lamb_holds_each_weight_once_when_layers_share_it() -> None:
    model = tiny_model("albert", num_hidden_layers=4)
    optimizer = make(model)
    draw_gradients(model, 0)
    optimizer.step()
    assert len(optimizer.state) == len(list(model.parameters()))


def test_lamb_goes_on_bit_for_bit_when_its_state_is_loaded_without_pickle() -> None:
    model = tiny_model("albert")
    optimizer = make(model)
    for step in range(3):
        draw_gradients(model, step)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    twin = copy.deepcopy(model)
    other = make(twin)
    other.load_state_dict(torch.load(file, weights_only=True))
    for step in (3, 4):
        for each, stepped in ((model, optimizer), (twin, other)):
            draw_gradients(each, step)
            stepped.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
