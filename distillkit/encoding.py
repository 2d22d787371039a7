"""Last hidden states of the attended tokens of a micro-batch, from any stock transformers encoder."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.attention import unpadded, use_quick_attention
from distillkit.layout import lay_out, with_layout
from distillkit.linear import shared_copies, use_quick_linears
from distillkit.types import IGNORE_INDEX, Batch, Layout

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the largest entry: what padded and unpadded rows may differ by; 5% in half precision."""

_takes_rows: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


def encode(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Last hidden states of the attended tokens.

    Padding is not computed where the model's attention can be told where the rows begin (`takes_rows`), else it is
    left out afterwards.

    Args:
        model: a masked-LM model with a `base_model`.
        batch: one micro-batch.

    Returns:
        [N, H] in the order of the batch's layout, in the model's dtype.
    """
    rows = takes_rows(model)
    inputs = {"input_ids": batch.input_ids}
    if batch.segments is not None and takes_segments(model):
        inputs["token_type_ids"] = batch.segments
    if batch.attention_mask is None:
        with shared_copies():
            return model.base_model(**inputs)[0].flatten(0, 1)
    layout = with_layout(batch).layout
    assert layout is not None
    if rows:
        return _encode_rows(model, inputs, layout)
    hidden = model.base_model(**inputs, attention_mask=batch.attention_mask)[0]
    return hidden.flatten(0, 1).index_select(0, layout.attended)


def _encode_rows(model: PreTrainedModel, inputs: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """As `encode`, of [B, T] ids and token types."""
    places = layout.attended % inputs["input_ids"].shape[1] + first_position(model)
    with unpadded(), shared_copies():
        output = model.base_model(
            **{name: ids.flatten().index_select(0, layout.attended).unsqueeze(0) for name, ids in inputs.items()},
            position_ids=places.unsqueeze(0),
            row_lengths=layout.lengths,
            row_starts=layout.starts,
        )
    return output[0].squeeze(0)


def takes_segments(model: PreTrainedModel) -> bool:
    """Whether the encoder can be told which segment a token belongs to: it has an embedding for each of the two.

    Args:
        model: a masked-LM model. RoBERTa-like ones know one token type, DistilBERT and ModernBERT none.
    """
    known = inspect.signature(model.base_model.forward).parameters
    return getattr(model.config, "type_vocab_size", 0) > 1 and "token_type_ids" in known


def takes_rows(model: PreTrainedModel) -> bool:
    """Whether the encoder gives the same states for rows one after the other as for padded rows.

    Tried once per model on two small rows: some classes ignore where rows begin (MPNet, DeBERTa).

    Args:
        model: a masked-LM model; the first time it is given our attention, where it has SDPA, and our linear layers.
    """
    if model not in _takes_rows:
        use_quick_attention(model)
        use_quick_linears(model)
        _takes_rows[model] = _same_states(model)
    return _takes_rows[model]


def keep_padding(model: PreTrainedModel) -> None:
    """Leaves a model its own attention, layers and padding: compiled code wants shapes that repeat.

    Args:
        model: that is or will be compiled.
    """
    _takes_rows[model] = False


@torch.no_grad()
def _same_states(model: PreTrainedModel) -> bool:
    """Compares both ways on two rows, the longer beyond a sliding window, if there is one."""
    encoder = model.base_model
    if "position_ids" not in inspect.signature(encoder.forward).parameters:
        return False
    device, window = next(encoder.parameters()).device, getattr(model.config, "sliding_window", None) or 3
    longest = min(2 * window + 2, longest_row(model) or 8)
    ids = torch.full((2, longest), 7, device=device)
    ids += torch.arange(longest, device=device) % 3
    mask = (torch.arange(longest, device=device) < torch.tensor([[longest // 2], [longest]], device=device)).long()
    labels = torch.full_like(ids, IGNORE_INDEX)
    inputs = {"input_ids": ids}
    if takes_segments(model):
        inputs["token_type_ids"] = (torch.arange(longest, device=device) >= longest // 4).long().expand_as(ids)
    training = encoder.training
    encoder.eval()
    try:
        layout = lay_out(mask, labels)
        with torch.autocast(device.type, enabled=False):
            padded = encoder(**inputs, attention_mask=mask)[0].flatten(0, 1)[layout.attended]
            with unpadded() as calls:
                rows = _encode_rows(model, inputs, layout)
    except (TypeError, RuntimeError, ValueError):  # it does not take these keywords, or not one row for two
        return False
    finally:
        encoder.train(training)
    tolerance = _TOLERANCE.get(rows.dtype, 0.05) * float(padded.abs().max())
    return len(calls) == model.config.num_hidden_layers and bool((rows - padded).abs().max() <= tolerance)


def first_position(model: PreTrainedModel) -> int:
    """Position of a row's first token: RoBERTa-like models begin after padding_idx."""
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def longest_row(model: PreTrainedModel) -> int | None:
    """Tokens of the longest row a model takes; RoBERTa-like models spend some of their positions.

    Args:
        model: with a `base_model`.

    Returns:
        None where its config names no limit.
    """
    positions: int | None = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else positions - first_position(model)
