"""Text from a data set of the Hugging Face hub."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from distillkit.data.checks import digest
from distillkit.data.corpus import require_text_column
from distillkit.data.splitting import Splits, check_fraction, quiet, read_documents, split_documents
from distillkit.errors import DataError


class HubCorpus:
    """A data set of the Hugging Face hub (or a local folder in its layout), kept in the hub's own cache.

    Args:
        name: e.g. "Salesforce/wikitext".
        config: e.g. "wikitext-103-raw-v1"; None takes the only one.
        split: the documents to train on.
        text_column: the string column that holds the documents.
        valid_split: the held-out documents; None holds out a part of `split`.
        valid_fraction: which part, in (0, 1), chosen by a hash of each document.

    Raises:
        ConfigError: valid_fraction is out of range.
    """

    def __init__(
        self,
        name: str,
        config: str | None = None,
        split: str = "train",
        text_column: str = "text",
        valid_split: str | None = None,
        valid_fraction: float = 0.05,
    ) -> None:
        check_fraction(valid_fraction)
        self.name, self.config, self.split, self.text_column = name, config, split, text_column
        self.valid_split, self.valid_fraction = valid_split, valid_fraction

    def fingerprint(self) -> dict[str, Any]:
        """SHA-256 of the data set's Arrow files, and the options; loads it. DataError when that fails.

        Where datasets holds it in memory (HF_DATASETS_IN_MEMORY_MAX_SIZE) there are no files, but datasets' own hash.
        """
        loaded = [self._train, *([] if self._valid is None else [self._valid])]
        files = [digest(Path(file["filename"]), key="data.name") for part in loaded for file in part.cache_files]
        files += [part._fingerprint for part in loaded if not part.cache_files]
        options = {"split": self.split, "valid_split": self.valid_split, "valid_fraction": self.valid_fraction}
        return {"format": "hub", "files": files, "text_column": self.text_column, **options}

    def splits(self, cache_dir: Path) -> Splits:
        """Read the documents.

        Raises:
            DataError: the data set cannot be loaded, lacks the column, or holds no text.
        """
        train, blank = self._documents(self._train, cache_dir / "train.arrow")
        if self._valid is None:
            return split_documents(train, self.valid_fraction, blank=blank)
        valid, blank_valid = self._documents(self._valid, cache_dir / "valid.arrow")
        return Splits(train.select_columns(["text"]), valid.select_columns(["text"]), blank + blank_valid)

    def _documents(self, raw: datasets.Dataset, cache_file: Path) -> tuple[datasets.Dataset, int]:
        return read_documents(raw, self.text_column, cache_file, key="data.name", value=self.name)

    @cached_property
    def _train(self) -> datasets.Dataset:
        return self._load(self.split)

    @cached_property
    def _valid(self) -> datasets.Dataset | None:
        return None if self.valid_split is None else self._load(self.valid_split)

    def _load(self, split: str) -> datasets.Dataset:
        loaded = load_hub(
            self.name,
            self.config,
            split,
            key="data.name",
            fix="check data.name, data.config, the split and the network",
        )
        columns = {name: str(getattr(feature, "dtype", "nested")) for name, feature in loaded.features.items()}
        require_text_column(self.text_column, columns, self.name)
        return loaded


def load_hub(name: str, config: str | None, split: Any, *, revision: str | None = None, key: str, fix: str) -> Any:
    """A data set of the hub, of its cache, or a local folder in the hub's layout.

    Args:
        name, config, revision: of the data set.
        split: as load_dataset takes it: a name, or a mapping of names.
        key, fix: the configuration key to name in an error, and what to do about it.

    Returns:
        A Dataset, or a mapping of them as `split` is one.

    Raises:
        DataError: it cannot be loaded.
    """
    if not (Path(name).exists() or datasets.config.HF_HUB_OFFLINE or _hub_in_reach(name)):
        datasets.config.HF_HUB_OFFLINE = True  # looks in the cache at once instead of retrying for a minute
    try:
        with quiet():
            # datasets 5 runs no code of a data set; saying so keeps an older one from asking
            return datasets.load_dataset(name, config, split=split, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"cannot be loaded: {error}", key=key, value=name, fix=fix) from error


def _hub_in_reach(name: str) -> bool:
    """Whether the hub answers within seconds, whatever it says about the data set."""
    try:
        HfApi().dataset_info(name, timeout=5)
    except (HfHubHTTPError, ValueError):
        return True
    except Exception:  # each HTTP library has its own
        return False
    return True
