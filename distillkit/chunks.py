"""The terms on logits with their gradient, a chunk at a time: no [tokens, vocabulary] matrix outlives its chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.heads import apply_head
from distillkit.losses import row_blocks
from distillkit.types import LossSum, StepTotals


class GradientSum(NamedTuple):
    """A term's sum over n positions, and gradient: [n, V'] its derivative in the first V' logits of each."""

    sums: LossSum
    gradient: Tensor


class LogitTerm(Protocol):
    """What a term on logits has to be (`objective.Term` is)."""

    weight: float
    positions: str

    def divisor(self, totals: StepTotals) -> int: ...

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, /) -> LossSum: ...

    def with_gradient(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> GradientSum: ...


class LogitRows(NamedTuple):
    """The positions whose logits are compared, the predicted ones first.

    Attributes:
        student: [N, H] last hidden states.
        teacher: [N, H'], or None without a teacher.
        labels: [N] int64.
        predictions: how many of them are predicted.
    """

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    predictions: int


def on_logits(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    rows: LogitRows,
    terms: Mapping[str, LogitTerm],
    totals: StepTotals,
    chunk_rows: int,
    weights: Sequence[Tensor],
) -> tuple[Tensor, dict[str, LossSum]]:
    """Weighted share and raw sums of the terms that compare logits.

    Args:
        student, teacher: masked-LM models, for their heads.
        rows: hidden states and labels.
        terms: name -> term on logits.
        totals: of the optimizer step.
        chunk_rows: positions whose logits exist at one time.
        weights: the student's parameters that take part in its head.

    Returns:
        [] the share of the step's loss, differentiable in the student's hidden states and the weights; each term's
        LossSum.
    """
    compute = _Pass(student, teacher, rows, list(terms.values()), totals)
    share, sums, counts = _InChunks.apply(compute, chunk_rows, rows.student, *weights)
    return share, {name: LossSum(sums[i], counts[i]) for i, name in enumerate(terms)}


class _Pass:
    """One walk over the positions: while a block of logits is in the cache every term adds its part."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        rows: LogitRows,
        terms: Sequence[LogitTerm],
        totals: StepTotals,
    ) -> None:
        self.student, self.teacher, self.rows, self.terms = student, teacher, rows, terms
        self.scales = [term.weight / term.divisor(totals) for term in terms]

    def chunk(
        self, rows: Tensor, chunk: slice, weights: Sequence[Tensor] | None
    ) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Totals and counts as in `sums`, and the gradients of rows and weights, none where weights are None."""
        own = rows.detach().requires_grad_(weights is not None)
        with torch.set_grad_enabled(weights is not None):
            logits, target = self.logits(own, chunk)
        gradient = None if weights is None else torch.empty_like(logits)
        found = self.sums(logits.detach(), target, chunk, gradient)
        del target
        return found, [] if weights is None else [*torch.autograd.grad(logits, [own, *weights], gradient)]

    def logits(self, hidden: Tensor, chunk: slice) -> tuple[Tensor, Tensor | None]:
        """[n, V] of the student, with a gradient where one is asked for, and of the teacher."""
        target = None
        if self.teacher is not None and self.rows.teacher is not None:
            with torch.no_grad():
                target = apply_head(self.teacher, self.rows.teacher[chunk])
        return apply_head(self.student, hidden), target

    @torch.no_grad()
    def sums(
        self, logits: Tensor, target: Tensor | None, chunk: slice, gradient: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """[K] totals and [K] counts of the terms over a chunk; fills its gradient [n, V], if there is one."""
        labels = self.rows.labels[chunk]
        predicted = min(max(self.rows.predictions - chunk.start, 0), len(labels))
        totals = logits.new_zeros(len(self.terms), dtype=_scratch(logits[:0]).dtype)
        counts = torch.zeros(len(self.terms), dtype=torch.int64, device=logits.device)
        for block in [*row_blocks(logits, 0, predicted), *row_blocks(logits, predicted)]:
            parts = []
            for i, term in enumerate(self.terms):
                if term.positions == "predicted" and block.start >= predicted:
                    continue
                own, other = _scratch(logits[block]), None if target is None else _scratch(target[block])
                if gradient is None:
                    found = term(own, other, labels[block])
                else:
                    found, part = term.with_gradient(own, other, labels[block])
                    parts.append(part.mul_(self.scales[i]))
                totals[i] += found.total
                counts[i] += found.count
            if gradient is not None:
                _add_up(parts, gradient[block])
        return totals, counts


def _scratch(x: Tensor) -> Tensor:
    """A copy in float32, or float64 where it is that."""
    return x.to(torch.float64 if x.dtype == torch.float64 else torch.float32, copy=True)


def _add_up(parts: Sequence[Tensor], total: Tensor) -> None:
    """Writes the sum of [n, V'] parts, V' <= V, into total [n, V]; overwrites the widest part."""
    widest = max(parts, key=lambda part: part.shape[1], default=None)
    for part in parts:
        if widest is not None and part is not widest:
            widest[:, : part.shape[1]] += part
    known = 0 if widest is None else widest.shape[1]
    if widest is not None:
        total[:, :known] = widest
    total[:, known:] = 0


class _InChunks(torch.autograd.Function):
    """Takes each chunk's gradient at once, so that its logits can be freed; nothing is recomputed afterwards."""

    @staticmethod
    def forward(
        ctx: Any, compute: _Pass, chunk_rows: int, rows: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        differentiate = any(ctx.needs_input_grad)
        row_grads, parts = torch.empty_like(rows), []
        weight_grads: list[Tensor] = []
        # an empty selection still runs once: every weight then has a zero gradient, as DDP expects
        for start in range(0, max(1, len(rows)), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            part, grads = compute.chunk(rows[chunk], chunk, weights if differentiate else None)
            parts.append(part)
            if grads:
                row_grads[chunk] = grads.pop(0)
                weight_grads = [t.add_(g) for t, g in zip(weight_grads, grads, strict=True)] if start else grads
            del grads  # with the next chunk's they would be there twice
        totals, counts = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        share = torch.stack([t * scale for t, scale in zip(totals.unbind(), compute.scales, strict=True)]).sum()
        ctx.save_for_backward(*([row_grads] if differentiate else []), *weight_grads)
        ctx.mark_non_differentiable(totals, counts)
        return share, totals, counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor = grads[0]
        if factor.device.type == "cpu" and factor == 1:  # a pass over the vocabulary's matrix saved
            return None, None, *ctx.saved_tensors
        return None, None, *(grad * factor.to(grad.dtype) for grad in ctx.saved_tensors)
