"""Finds where the attended and the predicted tokens of a micro-batch lie."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit.types import IGNORE_INDEX, Batch, Layout


def lay_out(attention_mask: Tensor | None, labels: Tensor) -> Layout:
    """The layout of a micro-batch; on a GPU this waits for the device, so that data workers do it beforehand.

    Args:
        attention_mask: [B, T], 1 where attended; None when every position is.
        labels: [B, T] int64, IGNORE_INDEX where nothing is predicted.

    Returns:
        Layout, on the labels' device.
    """
    (count, width), device = labels.shape, labels.device
    if attention_mask is None:
        rows, lengths = torch.arange(count, device=device), torch.full((count,), width, device=device)
        attended = torch.arange(count * width, device=device)
    else:
        lengths, rows = attention_mask.sum(1).sort(stable=True)
        line, column = attention_mask[rows].nonzero(as_tuple=True)
        attended = rows[line] * width + column
    predicted = labels.flatten()[attended] != IGNORE_INDEX
    order = torch.argsort(~predicted, stable=True)
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int()
    return Layout(rows, tuple(lengths.tolist()), starts, attended, order, int(predicted.sum()))


def with_layout(batch: Batch) -> Batch:
    """The batch, its layout found where it had none."""
    return batch if batch.layout is not None else batch._replace(layout=lay_out(batch.attention_mask, batch.labels))
