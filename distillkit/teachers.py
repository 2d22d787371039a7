"""Loads masked-LM models and tokenizers, refuses those that cannot serve, and freezes a teacher."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from distillkit.demo_teacher import demo_model, demo_tokenizer
from distillkit.encoding import encode, longest_row
from distillkit.errors import ConfigError, TeacherError
from distillkit.heads import class_of
from distillkit.hub import hub_folder
from distillkit.sharing import restore_sharing
from distillkit.types import Batch

DEMO = "demo"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "spm.model", "sentencepiece.bpe.model")


class Teacher:
    """A frozen masked-LM model in eval mode. No nn.Module: it must reach neither optimizer nor checkpoint nor DDP.

    Args:
        model: a masked-LM model; its parameters are frozen.
        dtype: the weights are kept in.

    Attributes:
        model: the model.
        hidden_size: width of its last hidden states.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype = torch.float32) -> None:
        self.model = model.to(dtype).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.hidden_size: int = model.config.hidden_size

    @classmethod
    def from_pretrained(cls, path: str, dtype: str = "float32") -> Teacher:
        """Loads and checks a teacher.

        Args:
            path: a folder, a hub name, or "demo".
            dtype: one of DTYPES.

        Raises:
            TeacherError: it cannot serve as a teacher.
            ConfigError: an unknown dtype.
        """
        if dtype not in DTYPES:
            raise ConfigError("no such dtype", key="teacher.dtype", value=dtype, allowed=", ".join(DTYPES))
        return cls(load_model(path), DTYPES[dtype])

    def to(self, device: torch.device) -> Teacher:
        """Moves the model to a device."""
        self.model.to(device)
        return self

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states of the attended tokens, without a gradient.

        no_grad instead of inference_mode: the tensors meet autograd later.

        Args:
            batch: one micro-batch.

        Returns:
            [N, H] in the order of the batch's layout, in the teacher's dtype.
        """
        with torch.no_grad():
            return encode(self.model, batch)


def load_model(path: str, *, key: str = "teacher.path", new_head: bool = False) -> PreTrainedModel:
    """A masked-LM model with all its weights, finite, in float32 and eval mode; an ALBERT with its head for sentence
    order where it has one.

    Args:
        path: a folder with safetensors, a hub name, or "demo".
        key: the configuration key to blame.
        new_head: a missing head is allowed and comes out random; nothing else may be missing.

    Raises:
        TeacherError: missing, no masked-LM model, without an MLM head, pickle only, damaged, with weights that are
            not finite or do not fit its config.json.
    """
    if path == DEMO:
        return demo_model()
    folder = local_folder(path, key)
    stored = _check_files(folder, path, key)
    try:
        with _silence():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            _check_class(config, path, key)
            model, info = class_of(config, stored).from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
    except TeacherError:
        raise
    except Exception as error:  # a damaged config.json surfaces as anything from a KeyError to a validation error
        raise TeacherError(f"cannot be loaded as a masked-LM model ({_line(error)})", key=key, value=path) from error
    _check_account(model, info, path, key, new_head)
    _check_finite(model, path, key)
    restore_sharing(model, key=key)
    return model.eval()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Holds back transformers' bars and load reports; what matters in them is checked here and raised."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] if text else type(error).__name__


def local_folder(path: str, key: str) -> Path:
    """The local folder of a model: its own, or the hub's cache.

    Raises:
        TeacherError: a file, no such folder, or no such model.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise TeacherError("a file", key=key, value=path, allowed="the folder it lies in")
    if path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1:
        raise TeacherError("no such folder", key=key, value=path, allowed="a folder, a hub name, demo")
    return hub_folder(path, key=key)


def _check_files(folder: Path, path: str, key: str) -> set[str]:
    """The names of the stored weights; refuses no config, no weights, pickle only, a damaged file."""
    if not (folder / "config.json").is_file():
        raise TeacherError("no config.json in it", key=key, value=path, allowed="a folder written by save_pretrained")
    weights = sorted(folder.glob("*.safetensors"))
    pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])
    if pickles and not weights:
        convert = (
            f"from transformers import AutoModelForMaskedLM as M; M.from_pretrained({path!r}).save_pretrained({path!r})"
        )
        raise TeacherError(
            f"only pickled weights ({pickles[0].name}), which can run code", key=key, value=path, allowed="safetensors",
            fix=f'where you trust it: python -c "{convert}"',
        )  # fmt: skip
    if not weights:
        raise TeacherError("no weights in it", key=key, value=path, allowed="*.safetensors")
    names: set[str] = set()
    for file in weights:
        try:
            with safe_open(file, framework="pt") as tensors:
                names.update(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise TeacherError(
                f"{file.name} is damaged ({_line(error)})", key=key, value=path, fix="copy it again"
            ) from error
    return names


def _check_class(config: PreTrainedConfig, path: str, key: str) -> None:
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise TeacherError(
            f"transformers has no masked-LM class for {config.model_type}", key=key, value=path,
            allowed="a masked-LM encoder such as bert, roberta, modernbert",
        )  # fmt: skip


def _check_account(model: PreTrainedModel, info: dict[str, Any], path: str, key: str, new_head: bool) -> None:
    """Refuses weights that are missing, of another shape, or of layers that config.json does not have."""
    body = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    outside = [name for name in missing if not name.startswith(body)]
    inside = [name for name in missing if name.startswith(body)]
    mismatched = sorted(name for name, *_ in info["mismatched_keys"])
    layers = sorted(name for name in info["unexpected_keys"] if name.startswith(body) and re.search(r"\.\d+\.", name))
    if inside:
        raise TeacherError(f"{len(inside)} encoder weights are missing, e.g. {inside[0]}", key=key, value=path)
    if mismatched or layers:
        problem = f"{mismatched[0]} has another shape" if mismatched else f"more layers ({layers[0]})"
        raise TeacherError(
            f"{problem} than its config.json says", key=key, value=path, fix="restore the config.json it was saved with"
        )
    if outside and not new_head:
        raise TeacherError(
            f"no MLM head ({len(outside)} missing weights, e.g. {outside[0]})", key=key, value=path,
            allowed="a masked-LM model", fix="export it with its head",
        )  # fmt: skip


def _check_finite(model: PreTrainedModel, path: str, key: str) -> None:
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise TeacherError(f"{name} holds NaN or infinity", key=key, value=path, fix="use another checkpoint of it")


def load_tokenizer(path: str, *, key: str = "tokenizer.path") -> PreTrainedTokenizerFast:
    """A fast tokenizer with a mask token.

    Args:
        path: a folder, a hub name, or "demo".
        key: the configuration key to blame.

    Raises:
        TeacherError: none there, not a fast one, or without a mask token.
    """
    if path == DEMO:
        return demo_tokenizer()
    folder = local_folder(path, key)
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise TeacherError("no tokenizer in it", key=key, value=path, fix="save one beside it, or set tokenizer.path")
    try:
        with _silence():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exception
        raise TeacherError(f"its tokenizer cannot be loaded ({_line(error)})", key=key, value=path) from error
    if not tokenizer.is_fast:
        raise TeacherError("its tokenizer is not a fast one", key=key, value=path, fix="save it as tokenizer.json")
    if tokenizer.mask_token_id is None:
        raise TeacherError("its tokenizer has no mask token", key=key, value=path, fix="take another")
    return tokenizer  # type: ignore[return-value]


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, *, key: str = "teacher.path") -> None:
    """Refuses a tokenizer with an id beyond the model's embeddings; a larger model vocabulary (padding) is fine.

    Raises:
        TeacherError: naming the token.
    """
    rows = model.get_input_embeddings().weight.size(0)  # type: ignore[operator]
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= rows:
        raise TeacherError(
            f"its tokenizer has ids up to {highest} ({token!r}), its model only {rows} embeddings", key=key,
            value=model.name_or_path, fix="use the tokenizer the model was trained with",
        )  # fmt: skip


def check_same_vocabulary(
    tokenizer: PreTrainedTokenizerFast, reference: PreTrainedTokenizerFast, *, key: str = "tokenizer.path"
) -> None:
    """Refuses two tokenizers whose token -> id maps differ, even at the same size.

    Raises:
        TeacherError: naming the first token that differs.
    """
    own, other = tokenizer.get_vocab(), reference.get_vocab()
    if own != other:
        token = min(own.keys() ^ other.keys() or (t for t in own if own[t] != other[t]))
        raise TeacherError(
            f"another token -> id map than the teacher's ({token!r}: {own.get(token)} against {other.get(token)};"
            f" sizes {len(own)} and {len(other)})", key=key, value=tokenizer.name_or_path,
            fix="set tokenizer.path=null" if key == "tokenizer.path" else "use a model of the teacher's tokenizer",
        )  # fmt: skip


def check_positions(model: PreTrainedModel, max_length: int) -> None:
    """Refuses rows longer than the model's positions.

    Raises:
        ConfigError: naming the longest row it takes.
    """
    positions = longest_row(model)
    if positions is not None and max_length > positions:
        raise ConfigError(
            "longer than the model's positions", key="data.max_length", value=max_length, allowed=f"8..{positions}",
            fix=f"set data.max_length={positions}",
        )  # fmt: skip
