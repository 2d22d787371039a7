"""The loss terms as pure functions of tensors.

Each returns LossSum(total, count). Nothing here divides, weighs or reduces over ranks: the objective does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.types import IGNORE_INDEX, LossSum

_SMALL = 0.25
"""Below this the power series of exp(-x) - 1 + x (seven terms) is exact to float32 and the direct form is not."""

_BLOCK_ELEMENTS = 2**18
"""Logits handled at a time: 1 MB of float32, about what a core's cache holds."""


def soft_target_kl(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> LossSum:
    """Sum of KL(teacher || student) over positions, scaled by temperature squared.

    Accurate to rounding for nearly equal logits too, where the usual sum of p * (log p - log q) cancels.

    Args:
        student_logits: [N, V], any float dtype; computed in float32 (float64 stays float64).
        teacher_logits: [N, V]; no gradient flows into it.
        temperature: > 0, applied to both sides.

    Returns:
        LossSum: total in nats, [] float32, and the number of positions N.

    Raises:
        ValueError: the shapes differ, or the temperature is not positive and finite.

    Source: Hinton et al. 2015, section 2; DistilBERT's L_ce. Same gradient as the soft-target
    cross-entropy; the value is smaller by the teacher's entropy.
    """
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise ValueError(f"logits must both be [N, V], got {[*student_logits.shape]} and {[*teacher_logits.shape]}")
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    rows = _SoftTargetKL.apply(_at_least_float32(student_logits), _at_least_float32(teacher_logits), temperature)
    return LossSum(rows.sum(), torch.tensor(len(rows), device=rows.device))


class _SoftTargetKL(torch.autograd.Function):
    """[N] KL of each row times temperature squared.

    The gradient is taken along, a block of rows at a time, so that the dozen elementwise passes stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        gradient = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        rows = student.new_empty(len(student))
        block = max(1, _BLOCK_ELEMENTS // student.shape[1])
        for start in range(0, len(student), block):
            part = slice(start, start + block)
            rows[part], q_minus_p = _kl_rows(student[part], teacher[part], temperature, gradient is not None)
            if gradient is not None and q_minus_p is not None:
                gradient[part] = q_minus_p
        ctx.save_for_backward(gradient)
        ctx.temperature = temperature
        return rows.mul_(temperature**2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * (grads[0] * ctx.temperature).unsqueeze(-1), None, None


def _kl_rows(student: Tensor, teacher: Tensor, temperature: float, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """[n] KL(p || q) of rows [n, V] at a temperature, and q - p, its gradient in the student's logits / temperature.

    With p the teacher's probabilities and d = (teacher - student) / T centred so that sum(p * d) = 0,
    KL = log sum(p * exp(-d)) = log1p(sum(p * (exp(-d) - 1 + d))): every summand is positive and second order in d,
    so nothing cancels, and an error in the centring enters squared. log p - log q = d + KL gives the gradient.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    p = log_p.exp()
    d = (teacher - student).div_(temperature)
    d -= (p * d).sum(-1, keepdim=True)
    log_q = log_p - d  # up to a constant
    far = torch.exp(log_q).sub_(p).addcmul_(p, d)
    excess = torch.where(d.abs() < _SMALL, p * _exp_minus_linear(d), far).sum(-1, keepdim=True)
    # exp(log_q) overflows when the two sides are more than 80 nats apart: only the log-sum form survives that
    kl = torch.where(excess < 1.0, excess.log1p(), log_q.logsumexp(-1, keepdim=True))
    if not with_gradient:
        return kl.squeeze(-1), None
    log_ratio = d.add_(kl)  # log p - log q
    far = log_q.sub_(kl).exp_().sub_(p)
    return kl.squeeze(-1), torch.where(log_ratio.abs() < _SMALL, torch.expm1(-log_ratio).mul_(p), far)


def _exp_minus_linear(x: Tensor) -> Tensor:
    """exp(-x) - 1 + x for small x, elementwise, by its power series (relative error 1e-8 at 0.25)."""
    series = torch.ones_like(x)
    for n in (8, 7, 6, 5, 4, 3):
        series = series.mul_(x).div_(-n).add_(1.0)
    return series.mul_(x).mul_(x).mul_(0.5)


def masked_lm(student_logits: Tensor, labels: Tensor) -> LossSum:
    """Sum of the cross-entropy over the positions that carry a label.

    Args:
        student_logits: [N, V], any float dtype; computed in float32 (float64 stays float64).
        labels: [N] int64, IGNORE_INDEX where there is no prediction.

    Returns:
        LossSum: total in nats, [] float32, and the number of labelled positions; 0 and 0 when there is none.

    Source: Devlin et al. 2018, section 3.1; DistilBERT's L_mlm at temperature 1.
    """
    total = F.cross_entropy(_at_least_float32(student_logits), labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return LossSum(total, (labels != IGNORE_INDEX).sum())


def cosine_distance(student_hidden: Tensor, teacher_hidden: Tensor) -> LossSum:
    """Sum of 1 - cos(student, teacher) over positions.

    Computed as half the squared distance of the unit vectors, which does not cancel for nearly equal ones. A zero
    vector counts as 1/2 (LayerNorm outputs are never zero).

    Args:
        student_hidden: [N, H], any float dtype; computed in float32 (float64 stays float64).
        teacher_hidden: [N, H]; no gradient flows into it.

    Returns:
        LossSum: total, [] float32, dimensionless in [0, 2] per position, and the number of positions N.

    Raises:
        ValueError: the shapes differ.

    Source: DistilBERT's L_cos (last hidden states, CosineEmbeddingLoss with target 1).
    """
    if student_hidden.shape != teacher_hidden.shape or student_hidden.dim() != 2:
        raise ValueError(f"hidden must both be [N, H], got {[*student_hidden.shape]} and {[*teacher_hidden.shape]}")
    student, teacher = _at_least_float32(student_hidden), _at_least_float32(teacher_hidden.detach())
    own, other = (x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (student, teacher))
    gap = student - teacher
    surplus = (gap * (student + teacher)).sum(-1, keepdim=True) / (own + other)  # |student| - |teacher|
    shorter = torch.where(own < other, student, teacher)
    # the unit vectors' difference, subtracted before anything is rounded
    apart = (gap - shorter * (surplus / torch.minimum(own, other))) / torch.maximum(own, other)
    return LossSum(apart.square().sum() / 2, torch.tensor(len(student), device=student.device))


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
