"""The few types that travel between the parts."""

from __future__ import annotations

from collections.abc import Sequence
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
    """What one whole optimizer step holds: all micro-batches of all ranks.

    Attributes:
        attended: positions that are not padding, special tokens included.
        predicted: positions whose label is not IGNORE_INDEX.
        sequences: rows.
    """

    attended: int
    predicted: int
    sequences: int = 0


class Layout(NamedTuple):
    """Where the attended tokens of a micro-batch lie, known before it reaches the device (`layout.lay_out`).

    Everything between encoder and loss works on the N attended tokens alone, row after row, the shortest row first.

    Attributes:
        rows: [B] int64, the row of the batch that each length belongs to.
        lengths: B numbers of attended tokens, ascending.
        starts: [B + 1] int32, where each of these rows begins among the N tokens, and N.
        attended: [N] int64, places in the flat [B * T].
        order: [N] int64, places among the N tokens: the predicted ones first.
        predictions: how many of them are predicted.
    """

    rows: Tensor
    lengths: Sequence[int]
    starts: Tensor
    attended: Tensor
    order: Tensor
    predictions: int


class Batch(NamedTuple):
    """One micro-batch, masked and padded.

    Attributes:
        input_ids: [B, T] int64, masked for prediction.
        attention_mask: [B, T] int64, 1 where attended; None when nothing is padded.
        labels: [B, T] int64, the original id at predicted positions, IGNORE_INDEX elsewhere.
        step: global optimizer step this belongs to, from 0; -1 outside training.
        micro: index of the micro-batch within its rank's share of the step, from 0.
        totals: of the optimizer step; of this batch itself outside training.
        layout: of the attended tokens; None: found from mask and labels when it is needed.
        sequences: B indices of these rows in their split; None: not known.
        epoch: of the masks; with `sequences` it names the masked rows.
        segments: [B, T] int64, 0 in a row's first segment (and its padding), 1 in its second; None: rows have one.
        swapped: [B] int64, 1 where the segment that comes second in the text is shown first; None: rows have one.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    labels: Tensor
    step: int
    micro: int
    totals: StepTotals
    layout: Layout | None = None
    sequences: Sequence[int] | None = None
    epoch: int = 0
    segments: Tensor | None = None
    swapped: Tensor | None = None
