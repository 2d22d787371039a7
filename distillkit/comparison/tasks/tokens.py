"""What the kinds with an output for each token share: columns of features, padding on the right."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedTokenizerFast

Columns = dict[str, list[Any]]


def pad_right(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The tokenizer, padding on the right: a label's place then stays what it is in the feature without padding."""
    padder = copy.copy(tokenizer)
    padder.padding_side = "right"
    return padder
