"""Masked sentences as several models fill them, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillkit.heads import apply_head
from distillkit.teachers import load_model, load_tokenizer

MASK = "[MASK]"
EXAMPLES = (
    "The acting was [MASK], and I would watch it again.",
    "This is the worst [MASK] I have ever seen.",
    "The story takes [MASK] in a small town.",
    "She opened the [MASK] and walked into the room.",
    "Paris is the capital of [MASK].",
)


def fill_masks(models: Mapping[str, str], texts: Sequence[str] = EXAMPLES, top: int = 3) -> list[dict[str, Any]]:
    """The most probable tokens for the masked word of each text.

    Args:
        models: name -> a folder or hub name of a masked-LM model, or "demo".
        texts: each with one "[MASK]", whatever the tokenizers' own mask token is.
        top: how many tokens.

    Returns:
        Per text: text, and predictions: name -> [{token, score}], the most probable first; score is a probability.

    Raises:
        TeacherError: a model does not load.
        ValueError: a text does not hold exactly one mask.
    """
    if wrong := [text for text in texts if text.count(MASK) != 1]:
        raise ValueError(f"not exactly one {MASK}: {wrong[0]}")
    rows: list[dict[str, Any]] = [{"text": text, "predictions": {}} for text in texts]
    for name, path in models.items():
        model, tokenizer = load_model(path, key="MODEL_DIR"), load_tokenizer(path, key="MODEL_DIR")
        for row in rows:
            row["predictions"][name] = _fill(model, tokenizer, row["text"], top)
    return rows


def _fill(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str, top: int) -> list[dict[str, Any]]:
    encoded = tokenizer(text.replace(MASK, str(tokenizer.mask_token)), return_tensors="pt")
    place = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        hidden = model.base_model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"])[0]
        logits = apply_head(model, hidden[:, place])[0]
    scores, ids = logits.float().softmax(-1).topk(top)
    tokens = (str(tokenizer.decode([token])).strip() for token in ids.tolist())
    return [{"token": token, "score": score} for token, score in zip(tokens, scores.tolist(), strict=True)]
