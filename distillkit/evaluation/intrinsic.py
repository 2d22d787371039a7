"""Held-out figures that need no task: how well the student fills masks and how closely it follows the teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.meters import TermMeter
from distillkit.objective import HiddenSource, MaskedLMTerm, Objective, SentenceOrderTerm, SoftTargetTerm, Term
from distillkit.types import IGNORE_INDEX, Batch, LossSum


class Top1Term(Term):
    """Predicted positions where the student's best token is the right one."""

    needs_teacher = False

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor) -> LossSum:
        """Args: [N, V], ignored, [N]."""
        chosen = labels != IGNORE_INDEX
        return LossSum((student_logits.argmax(-1) == labels)[chosen].sum().float(), chosen.sum())


class AgreementTerm(Term):
    """Predicted positions where student and teacher name the same best token."""

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> LossSum:
        """Args: [N, V], [N, V], [N]."""
        chosen = labels != IGNORE_INDEX
        same = student_logits.argmax(-1) == teacher_logits.argmax(-1)
        return LossSum(same[chosen].sum().float(), chosen.sum())


class OfTeacherTerm(Term):
    """Another term that needs no teacher, computed of the teacher's own logits."""

    def __init__(self, term: Term) -> None:
        super().__init__(term.weight, term.positions)
        self.term = term

    def __call__(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> LossSum:
        """Args: ignored, [N, V], [N]."""
        return self.term(teacher_logits, None, labels)


class OrderAccuracyTerm(SentenceOrderTerm):
    """Rows whose segments' order the student names rightly."""

    def __call__(self, order_logits: Tensor, swapped: Tensor) -> LossSum:
        """Args: [B, 2], [B]."""
        right = order_logits.argmax(-1) == swapped
        return LossSum(right.sum().float(), right.new_ones(right.shape, dtype=torch.int64).sum())


def intrinsic_terms(with_teacher: bool, with_order: bool = False) -> dict[str, Term]:
    """The held-out metrics as terms, means over the predicted positions or, of the order, over rows.

    Args:
        with_teacher: also the two that compare with a teacher.
        with_order: also those of the order of a row's two segments.

    Returns:
        mlm_loss (nats) and top1 (share); with a teacher agreement (share) and kl (nats, temperature 1); with order
        sop_loss (nats) and sop_accuracy (share).
    """
    terms: dict[str, Term] = {"mlm_loss": MaskedLMTerm(), "top1": Top1Term()}
    if with_teacher:
        terms |= {"agreement": AgreementTerm(), "kl": SoftTargetTerm(temperature=1.0, positions="predicted")}
    if with_order:
        terms |= {"sop_loss": SentenceOrderTerm(), "sop_accuracy": OrderAccuracyTerm()}
    return terms


def evaluate_model(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    teacher: HiddenSource | None = None,
    terms: Mapping[str, Term] | None = None,
) -> dict[str, float]:
    """Runs the held-out batches through a model and returns its figures.

    Args:
        model: a masked-LM model on the batches' device; put in eval mode and back as it was.
        batches: held-out micro-batches (`MaskedLMDataModule.val_dataloader`).
        teacher: to compare with, or None.
        terms: instead of `intrinsic_terms`.

    Returns:
        name -> mean, and perplexity = exp(mlm_loss). Empty without any batch.
    """
    terms = terms if terms is not None else intrinsic_terms(teacher is not None)
    objective, meter = Objective(terms), TermMeter(list(terms))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                meter.update(objective.evaluate(model, teacher, batch, terms).sums)
    finally:
        model.train(training)
    return with_perplexity(meter.means())


def evaluate_pair(
    model: PreTrainedModel, batches: Iterable[Batch], teacher: HiddenSource | None, *, with_order: bool = False
) -> tuple[dict[str, float], dict[str, float] | None]:
    """A student's figures and its teacher's from one pass of both.

    Args:
        model, batches: as `evaluate_model`.
        teacher: what the student is compared with, or None.
        with_order: also judge how the student orders segments: it has the head, and the rows are pairs.

    Returns:
        evaluate_model's figures of the student, and of the teacher without comparing it with itself; None without one.
    """
    if teacher is None:
        return evaluate_model(model, batches, terms=intrinsic_terms(False, with_order)), None
    mark = "teacher/"
    own = {f"{mark}{name}": OfTeacherTerm(term) for name, term in intrinsic_terms(False).items()}
    both = evaluate_model(model, batches, teacher=teacher, terms=intrinsic_terms(True, with_order) | own)
    of_teacher = {name.removeprefix(mark): value for name, value in both.items() if name.startswith(mark)}
    return {name: both[name] for name in both if not name.startswith(mark)}, with_perplexity(of_teacher)


def with_perplexity(means: dict[str, float]) -> dict[str, float]:
    """Adds perplexity = exp(mlm_loss) where there is an mlm_loss; inf where that overflows (above 709 nats)."""
    loss = means.get("mlm_loss")
    return means if loss is None else means | {"perplexity": math.exp(loss) if loss < 709 else math.inf}
