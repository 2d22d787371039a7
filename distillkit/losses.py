"""The loss terms as pure functions of tensors.

Each returns LossSum(total, count). Nothing here divides, weighs or reduces over ranks: the objective does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.types import IGNORE_INDEX, LossSum

_SMALL = 0.25
"""Below this the power series of exp(x) - 1 - x (seven terms) is exact to float32 and the direct form is not."""

_FAR = 60.0
"""Below this a probability that underflows on the teacher's side is negligible on the student's as well."""

_BLOCK_ELEMENTS = 2**18
"""Logits handled at a time: 1 MB of float32; the fastest of 4 to 64 rows of 30,522 on two cores."""


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
    return sum_rows(rows)


class _SoftTargetKL(torch.autograd.Function):
    """[N] KL of each row times temperature squared; the gradient is taken along, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        gradient = torch.empty_like(student)
        rows = student.new_empty(len(student))
        for part in row_blocks(student):
            rows[part], gradient[part] = kl_rows(student[part].clone(), teacher[part].clone(), temperature)
        ctx.save_for_backward(gradient)
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.saved_tensors[0] * grads[0].unsqueeze(-1), None, None


def row_blocks(rows: Tensor, start: int = 0, stop: int | None = None) -> Iterator[slice]:
    """Cuts the rows start to stop of [N, V] into blocks whose elementwise work stays in the CPU's cache.

    On a GPU one block holds them all: there a block costs a launch of every kernel.
    """
    stop = len(rows) if stop is None else stop
    step = max(1, _BLOCK_ELEMENTS // rows.shape[1]) if rows.device.type == "cpu" else max(1, stop - start)
    for begin in range(start, stop, step):
        yield slice(begin, min(begin + step, stop))


def kl_rows(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) of each row times temperature squared, and its gradient.

    Args:
        student, teacher: [n, V] logits, float32 or float64; both are overwritten, their memory is worked in.
        temperature: > 0, applied to both sides.

    Returns:
        [n] nats, and [n, V] its derivative in the student's logits.

    With p the teacher's probabilities and w = (student - teacher) / T centred so that sum(p * w) = 0,
    KL = log sum(p * exp(w)) = log1p(sum(p * (exp(w) - 1 - w))): every summand is positive and second order in w, so
    nothing cancels, and an error in the centring enters squared. The gradient is T * (q - p) = T * p * expm1(w - KL).
    """
    target, w = teacher.div_(temperature), student.div_(temperature)
    p = target.softmax(-1)
    w -= target
    product = p * w
    w -= product.sum(-1, keepdim=True)
    if not _is_plain(w):
        kl, gradient = _kl_rows_of_any(target, p, w)
    else:
        exponential = torch.expm1(w, out=product)
        kl = w.neg_().add_(exponential).mul_(p).sum(-1, keepdim=True).log1p_()
        # expm1(w - KL) from expm1(w), without cancelling
        gradient = exponential.mul_(torch.exp(-kl)).add_(torch.expm1(-kl)).mul_(p)
    return kl.squeeze(-1).mul_(temperature**2), gradient.mul_(temperature)


def _is_plain(w: Tensor) -> bool:
    """Whether exp(w) - 1 - w can be computed as it stands: neither cancels (all w small) nor overflows.

    Looking costs a pass on the CPU and a wait on a GPU, where the general form is taken unseen.
    """
    if w.device.type != "cpu" or w.numel() == 0:
        return False
    lowest, highest = torch.aminmax(w)
    return _SMALL <= max(-float(lowest), float(highest)) < _FAR


def _kl_rows_of_any(target: Tensor, p: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """[n, 1] KL and [n, V] q - p as in `kl_rows`, for logits any distance apart: both forms are computed."""
    log_p = F.log_softmax(target, dim=-1)
    log_q = log_p + w  # up to a constant
    far = torch.exp(log_q).sub_(p).sub_(p * w)
    excess = torch.where(w.abs() < _SMALL, p * _exp_minus_linear(w), far).sum(-1, keepdim=True)
    # exp(log_q) overflows when the two sides are more than 80 nats apart: only the log-sum form survives that
    kl = torch.where(excess < 1.0, excess.log1p(), log_q.logsumexp(-1, keepdim=True))
    log_ratio = w.sub_(kl)  # log q - log p
    far = log_q.sub_(kl).exp_().sub_(p)
    return kl, torch.where(log_ratio.abs() < _SMALL, torch.expm1(log_ratio).mul_(p), far)


def _exp_minus_linear(x: Tensor) -> Tensor:
    """exp(x) - 1 - x for small x, elementwise, by its power series (relative error 1e-8 at 0.25)."""
    series = torch.ones_like(x)
    for n in (8, 7, 6, 5, 4, 3):
        series = series.mul_(x).div_(n).add_(1.0)
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


def masked_lm_rows(student: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row, and its gradient.

    Args:
        student: [n, V] logits, float32 or float64.
        labels: [n] int64, all of them ids.

    Returns:
        [n] nats, and [n, V] its derivative in the logits, q - 1 at the label and q elsewhere.
    """
    log_q = F.log_softmax(student, dim=-1)
    rows = -log_q.gather(1, labels.unsqueeze(1)).squeeze(1)
    return rows, log_q.exp_().scatter_add_(1, labels.unsqueeze(1), log_q.new_full((len(labels), 1), -1.0))


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
    return sum_rows(_CosineDistance.apply(_at_least_float32(student_hidden), teacher_hidden))


class _CosineDistance(torch.autograd.Function):
    """[N] 1 - cos of each row; the gradient is taken along, which is also right where both norms are equal."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        distance, gradient = student.new_empty(len(student)), torch.empty_like(student)
        for block in row_blocks(student):
            distance[block], gradient[block] = _cosine_rows(student[block], teacher[block].to(student.dtype))
        ctx.save_for_backward(gradient)
        return distance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * grads[0].unsqueeze(-1), None


def _cosine_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """[n] distances of [n, H] rows, and [n, H] their derivative in the student's."""
    own, other = (x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (student, teacher))
    gap = student - teacher
    surplus = (gap * (student + teacher)).sum(-1, keepdim=True) / (own + other)  # |student| - |teacher|
    shorter = torch.where(own < other, student, teacher)
    # the unit vectors' difference, subtracted before anything is rounded
    apart = (gap - shorter * (surplus / torch.minimum(own, other))) / torch.maximum(own, other)
    distance = apart.square().sum(-1, keepdim=True) / 2
    return distance.squeeze(-1), (apart - student / own * distance) / own


def sentence_order(logits: Tensor, swapped: Tensor) -> LossSum:
    """Sum of the cross-entropy between the predicted and the true order of each row's segments.

    Args:
        logits: [B, 2], any float dtype; computed in float32 (float64 stays float64).
        swapped: [B] int64, 0 for rows in order, 1 for swapped ones.

    Returns:
        LossSum: total in nats, [] float32, and the number of rows B.

    Source: Lan et al. 2019, section 3.1; the second part of transformers' AlbertForPreTraining loss, times B.
    """
    return sum_rows(F.cross_entropy(_at_least_float32(logits), swapped, reduction="none"))


def sum_rows(rows: Tensor) -> LossSum:
    """[n] losses of single positions as a LossSum."""
    return LossSum(rows.sum(), _count(rows))


def _count(rows: Tensor) -> Tensor:
    """[] int64 how many rows; filled on the device, which a GPU need not wait for."""
    return rows.new_full((), len(rows), dtype=torch.int64)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
