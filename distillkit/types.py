"""The few types that travel between the parts."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position without a prediction, as in torch's cross-entropy."""


class LossSum(NamedTuple):
    """A loss as a sum and what it was summed over; only the objective divides.

    Attributes:
        total: [] the sum, in nats (KL, MLM) or dimensionless (cosine); at least float32.
        count: [] int64, how many positions were summed over.
    """

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody calls


class StepTotals(NamedTuple):
    """Positions in one whole optimizer step: all micro-batches of all ranks.

    Attributes:
        attended: positions that are not padding, special tokens included.
        predicted: positions whose label is not IGNORE_INDEX.
    """

    attended: int
    predicted: int


class Batch(NamedTuple):
    """One micro-batch, masked and padded.

    Attributes:
        input_ids: [B, T] int64, masked for prediction.
        attention_mask: [B, T] int64, 1 where attended; None when nothing is padded.
        labels: [B, T] int64, the original id at predicted positions, IGNORE_INDEX elsewhere.
        step: global optimizer step this belongs to, from 0; -1 outside training.
        micro: index of the micro-batch within its rank's share of the step, from 0.
        totals: of the optimizer step; of this batch itself outside training.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor
    step: int
    micro: int
    totals: StepTotals
