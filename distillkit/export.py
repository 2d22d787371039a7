"""The student as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillkit.sharing import unshared_state_dict
from distillkit.storage import new_folder, write_text

CARD = "README.md"


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path, card: str = "") -> None:
    """Writes model and tokenizer, whole or not at all.

    Args:
        model: loads again with AutoModelForMaskedLM, in a process without distillkit. Weights that its layers share
            are stored for each layer (`sharing`).
        tokenizer: saved beside it.
        folder: replaced when it exists.
        card: text of its README.md; none is written when empty.

    Raises:
        StorageError: there is no room or no right to write; what was there stays.
    """
    with new_folder(Path(folder)) as staging:
        model.save_pretrained(staging, state_dict=unshared_state_dict(model))
        tokenizer.save_pretrained(staging)
        if card:
            write_text(staging / CARD, card)
