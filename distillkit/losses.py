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

    With p the teacher's probabilities and d = (teacher - student) / T centred so that sum(p * d) = 0,
    KL = log sum(p * exp(-d)) = log1p(sum(p * (exp(-d) - 1 + d))): every summand is positive and second order in d,
    so nothing cancels, and an error in the centring enters squared. log p - log q = d + KL gives the gradient.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        log_p = F.log_softmax(teacher / temperature, dim=-1)
        p = log_p.exp()
        d = (teacher - student).div_(temperature)
        d -= (p * d).sum(-1, keepdim=True)
        unnormalised_q = (log_p - d).exp_()
        near = p * _exp_minus_linear(d)
        far = unnormalised_q - p + p * d
        excess = torch.where(d.abs() < _SMALL, near, far).sum(-1, keepdim=True)
        # exp(log_p - d) overflows when the two sides are more than 80 nats apart: only the log-sum form survives that
        kl = torch.where(excess < 1.0, excess.log1p(), (log_p - d).logsumexp(-1, keepdim=True))
        ctx.save_for_backward(log_p, d.add_(kl))
        ctx.temperature = temperature
        return kl.squeeze(-1) * temperature**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        log_p, log_ratio = ctx.saved_tensors  # log p - log q
        p = log_p.exp()
        near = p * torch.expm1(-log_ratio)
        far = (log_p - log_ratio).exp_() - p
        q_minus_p = torch.where(log_ratio.abs() < _SMALL, near, far)
        return q_minus_p * (grads[0] * ctx.temperature).unsqueeze(-1), None, None


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
    total = F.cross_entropy(
        _at_least_float32(student_logits), labels, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return LossSum(total, (labels != IGNORE_INDEX).sum())


def cosine_distance(student_hidden: Tensor, teacher_hidden: Tensor) -> LossSum:
    """Sum of 1 - cos(student, teacher) over positions.

    Computed as half the squared distance of the unit vectors, which does not cancel for nearly parallel ones. A zero
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
    student = F.normalize(_at_least_float32(student_hidden), dim=-1)
    teacher = F.normalize(_at_least_float32(teacher_hidden.detach()), dim=-1)
    return LossSum((student - teacher).square().sum() / 2, torch.tensor(len(student), device=student.device))


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
