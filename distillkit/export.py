"""The student as a plain Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distillkit.storage import new_folder


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes model and tokenizer, whole or not at all.

    Args:
        model: loads again with AutoModelForMaskedLM, in a process without distillkit.
        tokenizer: saved beside it.
        folder: replaced when it exists.

    Raises:
        StorageError: there is no room or no right to write; what was there stays.
    """
    with new_folder(Path(folder)) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
