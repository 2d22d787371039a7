"""Floating-point operations of models by counting matrix products; a multiply-add counts as two.

Counted on a copy without weights where the model's code allows it, so that neither the model nor its device is touched.
Element by element work (activations, LayerNorm, softmax) is not counted. A layer used several times counts each time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, PreTrainedModel

from distillkit.encoding import longest_row
from distillkit.heads import apply_head
from distillkit.types import StepTotals

_LONGEST = 512


@dataclass(frozen=True)
class ModelFlops:
    """Operations of one forward pass.

    Attributes:
        token: of the encoder for a position, without what grows with the length of its row.
        pair: of the encoder for a position and each position of its row (attention).
        head: of the prediction head for a position.
    """

    token: float
    pair: float
    head: float

    def encoder(self, length: float) -> float:
        """Of the encoder for a position of a row of `length` positions."""
        return self.token + self.pair * length


@dataclass(frozen=True)
class StepFlops:
    """Operations that a step's arithmetic needs, however it is computed: forward once, backward twice as much.

    Attributes:
        student: trained.
        teacher: None where no term compares with one.
        heads: positions that the heads see: "all", "predicted", or None for no head.
        compared: whether the teacher's head is needed too.

    Source: PaLM (Chowdhery et al. 2022), appendix B: model FLOPs count no recomputation.
    """

    student: ModelFlops
    teacher: ModelFlops | None
    heads: str | None
    compared: bool

    def of(self, totals: StepTotals, length: float) -> float:
        """Operations of one optimizer step.

        Args:
            totals: its positions.
            length: of its rows.
        """
        heads = 3 * self.student.head + (self.teacher.head if self.teacher and self.compared else 0.0)
        rows = {"all": totals.attended, "predicted": totals.predicted, None: 0}[self.heads]
        return totals.attended * 3 * self.student.encoder(length) + self.of_teacher(totals, length) + rows * heads

    def of_teacher(self, totals: StepTotals, length: float) -> float:
        """Of them those of the teacher's encoder, which a cache saves."""
        return totals.attended * self.teacher.encoder(length) if self.teacher else 0.0


def model_flops(model: PreTrainedModel) -> ModelFlops | None:
    """Counts a masked-LM model's operations.

    Args:
        model: left as it is.

    Returns:
        For a BERT layer `token` is 8 H^2 + 4 H F and `pair` 4 H, with F the width of its feed-forward part. None where
        torch cannot count what the model does.
    """
    longest = min(_LONGEST, longest_row(model) or _LONGEST)
    lengths = (longest // 2, longest)

    def count(twin: PreTrainedModel) -> ModelFlops:
        short, long = (_encoder(twin, length) / length for length in lengths)
        pair = (long - short) / (lengths[1] - lengths[0])
        hidden = torch.zeros(1, twin.config.hidden_size, device=twin.device)
        return ModelFlops(long - pair * longest, pair, _counted(lambda: apply_head(twin, hidden)))

    return _on_a_twin(model, count)


def flops_per_token(model: PreTrainedModel, *, length: int) -> float | None:
    """Operations of one forward pass of the encoder, without the masked-LM head, over the tokens of one text.

    Args:
        model: left as it is.
        length: tokens of the text; fewer where a model has fewer positions.

    Returns:
        Per token; for a BERT layer 8 H^2 + 4 H F + 4 T H with F the width of its feed-forward part. None where torch
        cannot count what the model does.
    """
    tokens = min(length, longest_row(model) or length)
    return _on_a_twin(model, lambda twin: _encoder(twin, tokens) / tokens)


def _on_a_twin(model: PreTrainedModel, count: Callable[[PreTrainedModel], Any]) -> Any:
    """Counts on a model of the same configuration: without weights, or for code that looks at values with random ones.

    Plain attention stands in for the fused one, of which torch counts nothing on the CPU.
    """
    for device in ("meta", "cpu"):
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device):
                twin = AutoModelForMaskedLM.from_config(
                    copy.deepcopy(model.config), attn_implementation="eager", trust_remote_code=False
                )
            # without gradients: the counter hooks what requires one, which fails for DeBERTa
            return count(twin.eval().requires_grad_(False))
        except (AssertionError, NotImplementedError, RuntimeError):
            continue
    return None


def _encoder(model: PreTrainedModel, length: int) -> float:
    ids = torch.zeros(1, length, dtype=torch.long, device=model.device)
    return _counted(lambda: model.base_model(input_ids=ids)[0])


def _counted(call: Callable[[], Any]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())
