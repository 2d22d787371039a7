"""Knowledge distillation of masked-language-model encoders.

The names below are the Python API; each is imported when it is first used, since torch takes seconds.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Teacher": "teachers",
    "load_model": "teachers",
    "load_tokenizer": "teachers",
    "build_distilbert": "students.distilbert",
    "build_shallow": "students.shallow",
    "build_albert": "students.albert",
    "build_pretrained": "students.pretrained",
    "Objective": "objective",
    "SoftTargetTerm": "objective",
    "MaskedLMTerm": "objective",
    "HiddenCosineTerm": "objective",
    "MaskedLMDataModule": "data.datamodule",
    "TextCorpus": "data.corpus",
    "TokenMasker": "data.masking",
    "WordMasker": "data.word_masking",
    "DistillationModule": "training.module",
    "Checkpointer": "training.callbacks",
    "DirectoryCheckpointIO": "training.checkpointing",
    "evaluate_model": "evaluation.intrinsic",
    "export": "export",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports a name of the API from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
