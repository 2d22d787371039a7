"""The training objective: weighs the terms and divides each once, by the totals of the whole optimizer step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distillkit import losses
from distillkit.chunks import GradientSum, LogitRows, on_logits
from distillkit.encoding import encode
from distillkit.errors import ConfigError
from distillkit.heads import has_order_head, head_parameters, order_logits
from distillkit.layout import with_layout
from distillkit.phases import phase
from distillkit.types import Batch, LossSum, StepTotals

POSITIONS = ("all", "predicted")
_CHUNK = 2**24
"""Logits of a chunk. Once a chunk the gradient of the vocabulary's matrix is added up, which small ones would feel."""


class HiddenSource(Protocol):
    """What a teacher has to offer: its model (for the head) and its last hidden states."""

    model: PreTrainedModel

    def to(self, device: torch.device) -> Any: ...

    def hidden(self, batch: Batch) -> Tensor: ...


class Term(ABC):
    """One term of the loss: what it compares, over which positions, and its weight.

    Attributes:
        weight: multiplies the term's mean; a term of weight 0 is not computed.
        on: "logits" (called with student logits, teacher logits, labels), "hidden" (student, teacher hidden) or "order"
            (logits of the student's head for sentence order, which rows are swapped).
        positions: "all" attended positions or the "predicted" ones; what the sum is divided by. Terms on order have no
            positions: rows count.
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
        """The sum over some of its positions; see `on` for the inputs."""

    def with_gradient(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> GradientSum:
        """The sum over some positions and its derivative in the student's logits; for terms on logits.

        Whoever knows the derivative overrides this: here autograd finds it.

        Args:
            student_logits: [n, V], float32 or float64; the term's own copy, to work in.
            teacher_logits: the same, [n, V]; None without a teacher.
            labels: [n] int64.
        """
        with torch.enable_grad():
            leaf = student_logits.detach().requires_grad_()
            sums = self(leaf, teacher_logits, labels)
            (gradient,) = torch.autograd.grad(sums.total, leaf)
        return GradientSum(LossSum(sums.total.detach(), sums.count), gradient)

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
        """Args: [N, V], [N, V], ignored."""
        return losses.soft_target_kl(*_common(student_logits, teacher_logits), temperature=self.temperature)

    def with_gradient(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> GradientSum:
        """As `Term.with_gradient`."""
        assert teacher_logits is not None
        rows, gradient = losses.kl_rows(*_common(student_logits, teacher_logits), self.temperature)
        return GradientSum(losses.sum_rows(rows), gradient)


class MaskedLMTerm(Term):
    """The student's own masked-language-model loss (`losses.masked_lm`)."""

    needs_teacher = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, "predicted")

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> LossSum:
        """Args: [N, V], ignored, [N]."""
        return losses.masked_lm(student_logits, labels)

    def with_gradient(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> GradientSum:
        """As `Term.with_gradient`."""
        rows, gradient = losses.masked_lm_rows(student_logits, labels)
        return GradientSum(losses.sum_rows(rows), gradient)


def _common(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both over the tokens both have: padded vocabularies may differ in width."""
    common = min(student_logits.shape[1], teacher_logits.shape[1])
    return student_logits[:, :common], teacher_logits[:, :common]


class HiddenCosineTerm(Term):
    """Distance in angle of the last hidden states over every attended position (`losses.cosine_distance`)."""

    on = "hidden"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight, "all")

    def __call__(self, student_hidden: Tensor, teacher_hidden: Tensor) -> LossSum:
        """Args: [N, H], [N, H] over the attended positions."""
        return losses.cosine_distance(student_hidden, teacher_hidden)


class SentenceOrderTerm(Term):
    """The student's loss on the order of a row's two segments (`losses.sentence_order`)."""

    on = "order"
    needs_teacher = False

    def __call__(self, order_logits: Tensor, swapped: Tensor) -> LossSum:
        """Args: [B, 2], [B]."""
        return losses.sentence_order(order_logits, swapped)

    def divisor(self, totals: StepTotals) -> int:
        """Rows of the whole optimizer step."""
        return totals.sequences


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
        chunk_rows: positions whose logits exist at one time; bounds memory, changes results by rounding alone. None: as
            many as make 16 million logits of the student.

    Raises:
        ConfigError: every weight is 0.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        *,
        student_width: int | None = None,
        teacher_width: int | None = None,
        chunk_rows: int | None = None,
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
        batch = with_layout(batch)
        assert batch.layout is not None
        target = None  # the teacher first: what its pass needs is free again when the student's is kept
        if any(term.needs_teacher for term in terms.values()):
            assert teacher is not None, "a term compares with a teacher and there is none"
            with phase("teacher"):
                target = teacher.hidden(batch)
        with phase("forward"):
            hidden = encode(student, batch)
        sums: dict[str, LossSum] = {}
        loss = hidden.new_zeros((), dtype=torch.float64 if hidden.dtype == torch.float64 else torch.float32)
        if logit_terms := {name: term for name, term in terms.items() if term.on == "logits"}:
            share, sums = self._on_logits(student, teacher, hidden, target, batch, logit_terms)
            loss = loss + share
        compared: dict[str, tuple[Any, ...]] = {}
        if any(term.on == "hidden" for term in terms.values()):
            compared["hidden"] = (self.projection(hidden) if self.projection else hidden, target)
        if any(term.on == "order" for term in terms.values()):
            compared["order"] = _order(student, hidden, batch)
        for name, term in terms.items():
            if term.on in compared:
                sums[name] = term(*compared[term.on])
                loss = loss + sums[name].total * (term.weight / term.divisor(batch.totals))
        return ObjectiveOutput(loss, {name: LossSum(*(x.detach() for x in sums[name])) for name in terms})

    def _on_logits(
        self,
        student: PreTrainedModel,
        teacher: HiddenSource | None,
        hidden: Tensor,
        target: Tensor | None,
        batch: Batch,
        terms: Mapping[str, Term],
    ) -> tuple[Tensor, dict[str, LossSum]]:
        """As `on_logits`, of the [N, H] states of both that the terms look at."""
        layout = batch.layout
        assert layout is not None
        everywhere = any(term.positions == "all" for term in terms.values())
        rows = layout.order if everywhere else layout.order[: layout.predictions]
        inputs = LogitRows(
            hidden.index_select(0, rows),
            None if target is None else target.index_select(0, rows),
            batch.labels.flatten().index_select(0, layout.attended).index_select(0, rows),
            layout.predictions,
        )
        weights = self._head_parameters(student) if torch.is_grad_enabled() else []
        model = None if teacher is None else teacher.model
        chunk_rows = self.chunk_rows or max(1, _CHUNK // student.config.vocab_size)
        return on_logits(student, model, inputs, terms, batch.totals, chunk_rows, weights)

    def _head_parameters(self, student: PreTrainedModel) -> list[Tensor]:
        if self._head is None or self._head[0] is not student:
            self._head = (student, head_parameters(student))
        return self._head[1]


def _order(student: PreTrainedModel, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[B, 2] logits of the order of each row's segments, and [B] which rows are swapped; in the layout's order of rows.

    Raises:
        ConfigError: the rows have no two segments, or the student no head for their order.
    """
    if batch.swapped is None:
        raise ConfigError("the rows are no pairs of segments", key="loss.sop", fix="set data.packing=sentences")
    if not has_order_head(student):
        raise ConfigError("the student has no head for sentence order", key="loss.sop", fix="build it with sop=1.0")
    assert batch.layout is not None
    first = hidden.index_select(0, batch.layout.starts[:-1])
    return order_logits(student, first), batch.swapped.index_select(0, batch.layout.rows)
