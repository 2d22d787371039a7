"""The training objective: weighs the terms and divides each once, by the totals of the whole optimizer step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillkit import losses
from distillkit.errors import ConfigError
from distillkit.heads import apply_head, encode, head_parameters
from distillkit.phases import phase
from distillkit.types import IGNORE_INDEX, Batch, LossSum, StepTotals

POSITIONS = ("all", "predicted")


class HiddenSource(Protocol):
    """What a teacher has to offer: its model (for the head) and its last hidden states."""

    model: PreTrainedModel

    def to(self, device: torch.device) -> Any: ...

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor: ...


class Term(ABC):
    """One term of the loss: what it compares, over which positions, and its weight.

    Attributes:
        weight: multiplies the term's mean; a term of weight 0 is not computed.
        on: "logits" (called with student logits, teacher logits, labels) or "hidden" (student, teacher hidden).
        positions: "all" attended positions or the "predicted" ones; what the sum is divided by.
        needs_teacher: False for terms that work without one.
    """

    on: str = "logits"
    needs_teacher: bool = True

    def __init__(self, weight: float = 1.0, positions: str = "predicted") -> None:
        if not (weight >= 0 and math.isfinite(weight)):
            raise ConfigError("a weight must be finite and not negative", key="loss weight", value=weight)
        if positions not in POSITIONS:
            raise ConfigError("unknown choice", key="loss.positions", value=positions, allowed=" or ".join(POSITIONS))
        self.weight, self.positions = weight, positions

    @abstractmethod
    def __call__(self, *inputs: Any) -> LossSum:
        """The sum over one chunk of positions; see `on` for the inputs."""

    def divisor(self, totals: StepTotals) -> int:
        """Positions of the whole optimizer step that this term is the mean over (at least 1)."""
        return max(1, totals.attended if self.positions == "all" else totals.predicted)


class SoftTargetTerm(Term):
    """CE of the student against the teacher's softened distribution, as a KL (`losses.soft_target_kl`)."""

    def __init__(self, weight: float = 1.0, temperature: float = 2.0, positions: str = "all") -> None:
        super().__init__(weight, positions)
        if not (0 < temperature <= 100):
            raise ConfigError(
                "must be > 0",
                key="loss.temperature",
                value=temperature,
                allowed="(0, 100]",
                fix="set loss.temperature=2.0",
            )
        self.temperature = temperature

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> LossSum:
        """Args: [N, V], [N, V], [N]; the rows without a label are left out when positions is "predicted"."""
        common = min(student_logits.shape[1], teacher_logits.shape[1])  # padded vocabularies may differ in width
        student_logits, teacher_logits = student_logits[:, :common], teacher_logits[:, :common]
        if self.positions == "predicted":
            chosen = labels != IGNORE_INDEX
            student_logits, teacher_logits = student_logits[chosen], teacher_logits[chosen]
        return losses.soft_target_kl(student_logits, teacher_logits, temperature=self.temperature)


class MaskedLMTerm(Term):
    """The student's own masked-language-model loss (`losses.masked_lm`)."""

    needs_teacher = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, "predicted")

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> LossSum:
        """Args: [N, V], ignored, [N]."""
        return losses.masked_lm(student_logits, labels)


class HiddenCosineTerm(Term):
    """Distance in angle of the last hidden states over every attended position (`losses.cosine_distance`)."""

    on = "hidden"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, "all")

    def __call__(self, student_hidden: Tensor, teacher_hidden: Tensor) -> LossSum:
        """Args: [N, H], [N, H] over the attended positions."""
        return losses.cosine_distance(student_hidden, teacher_hidden)


class ObjectiveOutput(NamedTuple):
    """Attributes: loss: [] this micro-batch's share of the step's loss. sums: each term's raw, unweighted LossSum."""

    loss: Tensor
    sums: dict[str, LossSum]


class Objective(nn.Module):
    """Sum over terms of weight * (term's total / the term's positions in the whole optimizer step).

    Adding up `loss` over all micro-batches and ranks of a step gives the step's loss exactly, however it is cut.
    Source: REFERENCE of DistilBERT: L = alpha * L_ce + beta * L_mlm + gamma * L_cos, not divided by the weights' sum.

    Args:
        terms: name -> term; the names label logs. Terms of weight 0 are dropped.
        student_width: hidden size of the student; only needed when a term compares hidden states.
        teacher_width: hidden size of the teacher; where it differs, a learned linear projection maps the student's
            states to it. It is trained and checkpointed with the objective and never exported.
        chunk_rows: positions whose logits exist at one time; bounds memory, does not change results.

    Raises:
        ConfigError: every weight is 0.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        *,
        student_width: int | None = None,
        teacher_width: int | None = None,
        chunk_rows: int = 512,
    ) -> None:
        super().__init__()
        self.terms = {name: term for name, term in terms.items() if term.weight > 0}
        if not self.terms:
            raise ConfigError(
                "every weight is 0, nothing to train on", key="loss weights", value=0, fix="set loss.beta=2.0"
            )
        self.chunk_rows = chunk_rows
        self._head: tuple[PreTrainedModel, list[Tensor]] | None = None  # found once: it takes a backward pass
        compares_hidden = any(term.on == "hidden" for term in self.terms.values())
        self.projection: nn.Linear | None = None
        if compares_hidden and teacher_width is not None and student_width not in (None, teacher_width):
            self.projection = nn.Linear(student_width, teacher_width)  # type: ignore[arg-type]

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return any(term.needs_teacher for term in self.terms.values())

    def forward(self, student: PreTrainedModel, teacher: HiddenSource | None, batch: Batch) -> ObjectiveOutput:
        """The micro-batch's share of the step's loss, differentiable in the student and the projection.

        Args:
            student: a masked-LM model.
            teacher: None only when no term needs one.
            batch: one micro-batch; `batch.totals` are those of its optimizer step.

        Returns:
            ObjectiveOutput: loss [] float32, and every term's LossSum over this micro-batch.
        """
        return self.evaluate(student, teacher, batch, self.terms)

    def evaluate(
        self, student: PreTrainedModel, teacher: HiddenSource | None, batch: Batch, terms: Mapping[str, Term]
    ) -> ObjectiveOutput:
        """As `forward`, for the given terms instead of the objective's own (metrics are terms too)."""
        attended = None if batch.attention_mask is None else batch.attention_mask.bool()
        with phase("forward"):
            hidden = encode(student, batch.input_ids, batch.attention_mask)
        target = None
        if any(term.needs_teacher for term in terms.values()):
            assert teacher is not None, "a term compares with a teacher and there is none"
            with phase("teacher"):
                target = teacher.hidden(batch.input_ids, batch.attention_mask)
        sums: dict[str, LossSum] = {}
        loss = hidden.new_zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        on_logits = {name: term for name, term in terms.items() if term.on == "logits"}
        if on_logits:
            everywhere = any(term.positions == "all" for term in on_logits.values())
            rows = attended if everywhere else batch.labels != IGNORE_INDEX
            inputs = (_rows(hidden, rows), None if target is None else _rows(target, rows), _rows(batch.labels, rows))
            share, sums = self._on_logits(student, teacher, inputs, on_logits, batch.totals)
            loss = loss + share
        for name, term in terms.items():
            if term.on == "hidden":
                assert target is not None
                own = _rows(hidden, attended)
                sums[name] = term(self.projection(own) if self.projection else own, _rows(target, attended))
                loss = loss + sums[name].total * (term.weight / term.divisor(batch.totals))
        return ObjectiveOutput(loss, {name: LossSum(*(x.detach() for x in sums[name])) for name in terms})

    def _on_logits(
        self,
        student: PreTrainedModel,
        teacher: HiddenSource | None,
        inputs: tuple[Tensor, Tensor | None, Tensor],
        terms: Mapping[str, Term],
        totals: StepTotals,
    ) -> tuple[Tensor, dict[str, LossSum]]:
        """Weighted share [] and raw sums of the terms that compare logits, `chunk_rows` positions at a time."""
        scales = [term.weight / term.divisor(totals) for term in terms.values()]

        def compute(student_rows: Tensor, teacher_rows: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = apply_head(student, student_rows)
            target = None
            if teacher is not None and teacher_rows is not None:
                with torch.no_grad():
                    target = apply_head(teacher.model, teacher_rows)
            sums = [term(logits, target, labels) for term in terms.values()]
            share = sum((s.total * scale for s, scale in zip(sums, scales, strict=True)), start=logits.new_zeros(()))
            return share, torch.stack([s.total.detach() for s in sums]), torch.stack([s.count for s in sums])

        weights = self._head_parameters(student) if torch.is_grad_enabled() else []
        share, sums, counts = _InChunks.apply(compute, self.chunk_rows, inputs[1], inputs[2], inputs[0], *weights)
        return share, {name: LossSum(sums[i], counts[i]) for i, name in enumerate(terms)}

    def _head_parameters(self, student: PreTrainedModel) -> list[Tensor]:
        if self._head is None or self._head[0] is not student:
            self._head = (student, head_parameters(student))
        return self._head[1]


def _rows(x: Tensor, chosen: Tensor | None) -> Tensor:
    """[N, ...] the chosen positions of [B, T, ...]; with None all of them, as a view."""
    return x.flatten(0, 1) if chosen is None else x[chosen]


class _InChunks(torch.autograd.Function):
    """Runs `compute` over chunks of rows and takes each chunk's gradient at once, so that its logits can be freed.

    Peak memory is one chunk's [chunk_rows, V] instead of [N, V]; nothing is recomputed in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        compute: Callable[[Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]],
        chunk_rows: int,
        teacher_rows: Tensor | None,
        labels: Tensor,
        student_rows: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        differentiate = any(ctx.needs_input_grad)
        row_grads = torch.zeros_like(student_rows) if differentiate else None
        weight_grads = [torch.zeros_like(w) for w in weights]
        parts = []
        # an empty selection still runs once: every weight then has a zero gradient, as DDP expects
        for start in range(0, max(1, len(student_rows)), chunk_rows):
            chunk = slice(start, start + chunk_rows)
            rows = student_rows[chunk].detach().requires_grad_(differentiate)
            with torch.set_grad_enabled(differentiate):
                part = compute(rows, None if teacher_rows is None else teacher_rows[chunk], labels[chunk])
            if row_grads is not None:
                row_grads[chunk], *grads = torch.autograd.grad(part[0], [rows, *weights])
                for total, grad in zip(weight_grads, grads, strict=True):
                    total += grad
            parts.append([p.detach() for p in part])
        share, sums, counts = (torch.stack(p).sum(0) for p in zip(*parts, strict=True))
        ctx.save_for_backward(*([row_grads] if row_grads is not None else []), *weight_grads)
        ctx.mark_non_differentiable(sums, counts)
        return share, sums, counts

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, None, *(grad * grads[0].to(grad.dtype) for grad in ctx.saved_tensors))
