"""Models of the Hugging Face hub as local folders, so that every check on a folder holds for them too."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from distillkit.errors import TeacherError

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def hub_folder(name: str, *, key: str) -> Path:
    """Downloads a hub model's configuration, safetensors and tokenizer, or finds them in the hub's cache.

    transformers' own from_pretrained retries every file for 23 s when the hub is out of reach; this asks once.

    Args:
        name: as on the hub, "bert-base-uncased" or "owner/model".
        key: the configuration key to blame.

    Returns:
        The folder in the hub's cache.

    Raises:
        TeacherError: no such model, no right to read it, or the hub is out of reach and the cache lacks it.
    """
    fix: str | None = "check the spelling; a folder needs to exist"
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, ignore_patterns="*/*", etag_timeout=5))
    except (HFValidationError, GatedRepoError, RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        problem = "neither a folder nor a model of the hub"
        if isinstance(error, GatedRepoError):
            problem, fix = "its owner on the hub asks for a login", "ask for access there, then hf auth login"
        elif isinstance(error, LocalEntryNotFoundError):
            problem, fix = "no such folder, and the hub is out of reach", "name a folder"
    except OSError as error:
        problem, fix = f"its download failed ({error})", "try again, or download it and name the folder"
    raise TeacherError(problem, key=key, value=name, allowed="a folder, a hub name, demo", fix=fix)
