"""The head for sentence order: which class of student has it, and what it starts from."""

from __future__ import annotations

from transformers import AlbertForMaskedLM, AlbertForPreTraining, PreTrainedModel

from distillkit.students.transfer import Transfer

POOLER, CLASSIFIER = "albert.pooler.", "sop_classifier."
"""How the names of its weights begin."""

MIN_TYPES = 2
"""Token types that a model of two segments tells apart."""


def albert_class(sop: float) -> type[PreTrainedModel]:
    """The ALBERT with a masked-LM head, and where sentence order is trained (weight > 0) with its pooler and head."""
    return AlbertForPreTraining if sop > 0 else AlbertForMaskedLM


def start_order_head(transfer: Transfer) -> None:
    """Accounts for pooler and head of a student that may have them: BERT's pooler, where the source has one, then fresh
    weights. BERT's own head is for another question, whether two segments belong together at all."""
    for name in transfer.student_names:
        origin = f"bert.pooler.dense.{name.removeprefix(POOLER)}"
        if name.startswith(POOLER) and origin in transfer.source_names:
            transfer.copy(name, origin)
        elif name.startswith((POOLER, CLASSIFIER)):
            transfer.keep_initialised(name)
