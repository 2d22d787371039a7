"""Losses as pure functions: values, gradients, precision, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distillkit import losses
from distillkit.types import IGNORE_INDEX
from tests.parity.reference import last_hidden_cosine, softened_kl

N, V = 40, 257
T = 2.0


def logit_pair(distance: float, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Student and teacher logits [N, V] float32, `distance` apart."""
    torch.manual_seed(0)
    teacher = scale * torch.randn(N, V)
    return (teacher + distance * torch.randn(N, V)).requires_grad_(), teacher


def exact_kl(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """T^2 * sum of KL(p || q) and its gradient, in float64 and without cancellation.

    With d = (teacher - student) / T centred so that sum p d = 0, KL = log sum p exp(-d) = log1p(sum p (expm1(-d) + d)).
    """
    s, t = student.detach().double(), teacher.double()
    p, d = torch.softmax(t / T, -1), (t - s) / T
    d = d - (p * d).sum(-1, keepdim=True)
    excess = p * torch.where(d.abs() < 1e-2, d**2 / 2 - d**3 / 6 + d**4 / 24 - d**5 / 120, torch.expm1(-d) + d)
    kl = torch.log1p(excess.sum(-1))
    q_minus_p = p * torch.expm1(-(d + kl.unsqueeze(-1)))
    return T**2 * kl.sum(), T * q_minus_p


@pytest.mark.parametrize("distance", [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_kl_is_exact_to_float32_when_logits_are_any_distance_apart(distance: float) -> None:
    student, teacher = logit_pair(distance)
    total, count = losses.soft_target_kl(student, teacher, temperature=T)
    total.backward()
    expected, gradient = exact_kl(student, teacher)
    assert count == N
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad is not None
    assert (student.grad - gradient).abs().max() < 1e-5 * gradient.abs().max()


def test_kl_equals_the_transcription_when_logits_are_random_float64() -> None:
    student, teacher = (x.double() for x in logit_pair(1.0))
    student = student.detach().requires_grad_()
    twin = student.detach().clone().requires_grad_()
    total, count = losses.soft_target_kl(student, teacher, temperature=T)
    (total / count).backward()
    expected = softened_kl(twin, teacher, T)
    expected.backward()
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-10)
    torch.testing.assert_close(student.grad, twin.grad, rtol=0, atol=1e-10 * float(twin.grad.abs().max()))


def test_kl_gradient_is_the_numerical_one_when_checked_by_differences() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    student[2] = teacher[2] + 1e-3
    student[2, 0] += 1e-2
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.soft_target_kl(x, teacher, temperature=1.5).total, student)


def test_kl_stays_finite_and_right_when_the_sides_are_thousands_of_nats_apart() -> None:
    student = torch.tensor([[0.0, 4000.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[4000.0, 0.0, 0.0]])
    total, _ = losses.soft_target_kl(student, teacher, temperature=1.0)
    total.backward()
    assert total.item() == pytest.approx(4000.0)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


def test_kl_ignores_a_constant_when_it_is_added_to_one_side() -> None:
    student, teacher = logit_pair(0.1)
    plain = losses.soft_target_kl(student, teacher, temperature=T).total.item()
    shifted = losses.soft_target_kl(student + 8.0, teacher, temperature=T).total.item()
    assert shifted == pytest.approx(plain, rel=1e-4)


def test_losses_send_the_teacher_no_gradient_when_it_requires_one() -> None:
    student, teacher = logit_pair(1.0)
    teacher.requires_grad_()
    losses.soft_target_kl(student, teacher, temperature=T).total.backward()
    losses.cosine_distance(student, teacher).total.backward()
    assert teacher.grad is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_kl_refuses_temperature_when_it_is_not_positive_and_finite(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        losses.soft_target_kl(*logit_pair(1.0), temperature=temperature)


def test_losses_refuse_shapes_when_they_differ() -> None:
    with pytest.raises(ValueError, match="logits must both be"):
        losses.soft_target_kl(torch.zeros(2, 3), torch.zeros(2, 4), temperature=T)
    with pytest.raises(ValueError, match="hidden must both be"):
        losses.cosine_distance(torch.zeros(2, 3), torch.zeros(2, 4))


def test_losses_are_zero_with_zero_gradient_when_there_are_no_rows() -> None:
    student = torch.zeros(0, V, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    for total, count in (
        losses.soft_target_kl(student, torch.zeros(0, V), temperature=T),
        losses.masked_lm(student, labels),
        losses.cosine_distance(student, torch.zeros(0, V)),
    ):
        total.backward()
        assert (total.item(), count.item()) == (0, 0)


def test_masked_lm_is_zero_with_zero_gradient_when_no_position_carries_a_label() -> None:
    logits = torch.randn(4, V, requires_grad=True)
    total, count = losses.masked_lm(logits, torch.full((4,), IGNORE_INDEX))
    total.backward()
    assert (total.item(), count.item()) == (0, 0)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_masked_lm_sums_labelled_rows_when_some_are_ignored() -> None:
    logits, _ = logit_pair(0.0)
    labels = torch.full((N,), IGNORE_INDEX)
    labels[3], labels[9] = 5, 0
    total, count = losses.masked_lm(logits, labels)
    log_q = torch.log_softmax(logits.detach().double(), -1)
    assert count == 2
    assert total.item() == pytest.approx(-(log_q[3, 5] + log_q[9, 0]).item(), rel=1e-5)


@pytest.mark.parametrize("distance", [1e-3, 1e-2, 1.0])
def test_cosine_is_exact_to_float32_when_vectors_are_nearly_parallel(distance: float) -> None:
    student, teacher = logit_pair(distance)
    total, count = losses.cosine_distance(student, teacher)
    total.backward()
    twin = student.detach().double().requires_grad_()
    expected = last_hidden_cosine(twin, teacher.double())
    expected.backward()
    assert count == N
    assert (total / count).item() == pytest.approx(expected.item(), rel=1e-5)
    assert student.grad is not None
    assert twin.grad is not None
    assert (student.grad / N - twin.grad).abs().max() < 1e-5 * twin.grad.abs().max()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cosine_is_zero_or_two_when_vectors_are_parallel_or_opposite(sign: float) -> None:
    _, teacher = logit_pair(0.0)
    total, _ = losses.cosine_distance(sign * 3.0 * teacher, teacher)
    assert total.item() / N == pytest.approx(1 - sign, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_compute_in_float32_when_inputs_are_half_precision(dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in logit_pair(0.1))
    labels = torch.arange(N)
    for loss in (
        lambda s, t: losses.soft_target_kl(s, t, temperature=T),
        lambda s, t: losses.masked_lm(s, labels),
        losses.cosine_distance,
    ):
        found, expected = loss(student, teacher).total, loss(student.float(), teacher.float()).total
        assert found.dtype == torch.float32
        assert found == expected


def test_cosine_gradient_is_right_when_both_norms_are_equal() -> None:
    torch.manual_seed(0)
    student = torch.randn(6, 8, dtype=torch.float64)
    teacher = student.flip(-1)  # of exactly the same norm
    student[3:] *= 2.0
    twin = student.clone().requires_grad_()
    student.requires_grad_()
    losses.cosine_distance(student, teacher).total.backward()
    (1 - torch.nn.functional.cosine_similarity(twin, teacher)).sum().backward()
    torch.testing.assert_close(student.grad, twin.grad, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: losses.cosine_distance(x, teacher).total, student)
