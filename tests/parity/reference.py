"""DistilBERT's losses as its original training code computes them, transcribed plainly; no import from distillkit.

Everything is computed on the full [B, T, V] logits of the stock models' own forward, selected by a mask, and averaged
by torch's own loss modules. Nothing here is fast, chunked or stable by design: it is what the package is held against.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Weights(NamedTuple):
    """alpha, beta, gamma and the temperature; the defaults are the published ones."""

    ce: float = 5.0
    mlm: float = 2.0
    cos: float = 1.0
    temperature: float = 2.0


def distilbert_losses(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    *,
    weights: Weights,
    restrict_ce_to_mask: bool,
) -> dict[str, Tensor]:
    """Each term's mean [] and their weighted "total" []; differentiable in the student.

    Source: the research project `distillation/` of huggingface transformers (Sanh et al. 2019).
    """
    attended = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    with torch.no_grad():
        target = teacher(input_ids=input_ids, attention_mask=attended, output_hidden_states=True)
    output = student(input_ids=input_ids, attention_mask=attended, output_hidden_states=True)
    selected = (labels != -100) if restrict_ce_to_mask else attended.bool()
    terms = {
        "ce": softened_kl(output.logits[selected], target.logits[selected], weights.temperature),
        "mlm": nn.CrossEntropyLoss(ignore_index=-100)(output.logits.flatten(0, 1), labels.flatten()),
        "cos": last_hidden_cosine(output.hidden_states[-1][attended.bool()], target.hidden_states[-1][attended.bool()]),
    }
    total = weights.ce * terms["ce"] + weights.mlm * terms["mlm"] + weights.cos * terms["cos"]
    return terms | {"total": total}


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KLDivLoss(batchmean) of [N, V] logits at a temperature, times its square; []."""
    log_q = nn.functional.log_softmax(student_logits / temperature, dim=-1)
    p = nn.functional.softmax(teacher_logits / temperature, dim=-1)
    return nn.KLDivLoss(reduction="batchmean")(log_q, p) * temperature**2


def last_hidden_cosine(student_hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
    """CosineEmbeddingLoss(mean) of [N, H] states with target 1; []."""
    return nn.CosineEmbeddingLoss(reduction="mean")(
        student_hidden, teacher_hidden, student_hidden.new_ones(len(student_hidden))
    )
