"""Non-finite numbers stay out of the weights, and the first culprit is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from distillkit.errors import NumericalError
from distillkit.training.clipping import clip_gradients
from distillkit.training.numerics import FiniteWatch
from distillkit.types import LossSum

NAN = float("nan")


def terms(ce: float = 1.0, mlm: float = 1.0) -> dict[str, LossSum]:
    return {name: LossSum(torch.tensor(v), torch.tensor(1)) for name, v in (("mlm", mlm), ("ce", ce))}


def with_gradient(value: float) -> tuple[list[Tensor], Tensor]:
    """Two parameters whose gradients are 1 but for one entry, and the norm."""
    parameters: list[Tensor] = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    for p in parameters:
        p.grad = torch.ones_like(p)
    assert parameters[1].grad is not None
    parameters[1].grad[0, 1] = value
    return parameters, clip_gradients(parameters, 1.0, None)


@pytest.mark.parametrize("value", [NAN, float("inf"), float("-inf")])
def test_watch_gates_fused_adamw_when_gradient_is_not_finite(value: float) -> None:
    parameters, norm = with_gradient(1.0)
    optimizer, watch = torch.optim.AdamW(parameters, lr=0.1, fused=True), FiniteWatch(["ce", "mlm"])
    watch.guard_update(optimizer, norm, 0)
    optimizer.step()
    assert all(not torch.equal(p, torch.ones_like(p)) for p in parameters)
    before = copy.deepcopy((parameters, optimizer.state_dict()["state"]))

    for p, bad in zip(parameters, with_gradient(value)[0], strict=True):
        p.grad = bad.grad
    watch.guard_update(optimizer, torch.tensor(value), 1)
    optimizer.step()
    after = (parameters, optimizer.state_dict()["state"])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    with pytest.raises(NumericalError, match=r"gradient is not finite at step 2;"):
        watch.check()


def test_watch_lets_updates_through_again_when_a_gradient_is_finite_after_a_bad_one() -> None:
    parameters, norm = with_gradient(1.0)
    optimizer, watch = torch.optim.AdamW(parameters, lr=0.1, fused=True), FiniteWatch([])
    watch.guard_update(optimizer, torch.tensor(NAN), 0)
    optimizer.step()
    assert torch.equal(parameters[0], torch.ones(3))
    watch.guard_update(optimizer, norm, 1)
    optimizer.step()
    assert not torch.equal(parameters[0], torch.ones(3))


def test_watch_raises_before_the_update_when_optimizer_cannot_be_gated() -> None:
    parameters, norm = with_gradient(NAN)
    optimizer, watch = torch.optim.SGD(parameters, lr=0.1), FiniteWatch(["ce"])
    with pytest.raises(NumericalError, match="gradient is not finite at step 5"):
        watch.guard_update(optimizer, norm, 4)


def test_watch_names_first_term_when_several_are_not_finite() -> None:
    watch = FiniteWatch(["ce", "mlm"])
    watch.note_terms(terms(), 0)
    watch.check()
    watch.note_terms(terms(mlm=NAN), 3)
    watch.note_terms(terms(ce=NAN, mlm=NAN), 4)
    watch.guard_update(torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True), torch.tensor(NAN), 3)
    with pytest.raises(NumericalError, match=r"^mlm is not finite at step 4;") as caught:
        watch.check()
    assert caught.value.exit_code == 3


def test_watch_blames_the_loss_before_its_gradient_when_both_fail_in_one_step() -> None:
    watch = FiniteWatch(["ce", "mlm"])
    watch.note_terms(terms(ce=NAN, mlm=NAN), 0)
    watch.guard_update(torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True), torch.tensor(NAN), 0)
    with pytest.raises(NumericalError, match=r"^ce is not finite at step 1;"):
        watch.check()


@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clip_equals_torch_when_by_norm(limit: float) -> None:
    torch.manual_seed(0)
    parameters: list[Tensor] = [nn.Parameter(torch.zeros(4, 3)), nn.Parameter(torch.zeros(5))]
    twins, idle = copy.deepcopy(parameters), nn.Parameter(torch.zeros(2))
    for p, twin in zip(parameters, twins, strict=True):
        p.grad = torch.randn_like(p)
        twin.grad = p.grad.clone()
    norm = clip_gradients([*parameters, idle], limit, "norm")
    expected = torch.nn.utils.clip_grad_norm_(twins, limit)
    assert norm == expected
    assert all(torch.equal(p.grad, t.grad) for p, t in zip(parameters, twins, strict=True))  # type: ignore[arg-type]


def test_clip_limits_each_entry_when_by_value() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([-3.0, 0.2, 4.0])
    assert clip_gradients([parameter], 0.5, "value").item() == pytest.approx(25.04**0.5)
    assert parameter.grad.tolist() == pytest.approx([-0.5, 0.2, 0.5])


def test_clip_leaves_gradients_alone_when_there_is_no_limit() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradients([parameter], None, None) == 5
    assert parameter.grad.tolist() == [3, 4]
