"""Loads masked-LM models and tokenizers, refuses those that cannot serve, and freezes a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from distillkit.demo_teacher import demo_model, demo_tokenizer
from distillkit.errors import ConfigError, TeacherError
from distillkit.heads import encode

DEMO = "demo"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


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

    def hidden(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Last hidden states, without a gradient.

        no_grad instead of inference_mode: the tensors meet autograd later.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T] int64, or None when every position is attended.

        Returns:
            [B, T, H] in the teacher's dtype.
        """
        with torch.no_grad():
            return encode(self.model, input_ids, attention_mask)


def load_model(path: str, *, key: str = "teacher.path", new_head: bool = False) -> PreTrainedModel:
    """A masked-LM model with all its weights, finite, in float32 and eval mode.

    Args:
        path: a folder with safetensors, a hub name, or "demo".
        key: the configuration key to blame.
        new_head: a missing head is allowed and comes out random; nothing else may be missing.

    Raises:
        TeacherError: missing, without an MLM head, pickle only, damaged, with weights of other shapes or not finite.
    """
    if path == DEMO:
        return demo_model()
    _check_folder(path, key)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        model, info = AutoModelForMaskedLM.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _load_error(error, path, key) from error
    _check_complete(model, info, path, key, new_head)
    _check_finite(model, path, key)
    return model.eval()


def _check_folder(path: str, key: str) -> None:
    """Refuses what is visible without loading: no such folder, no config, pickle only."""
    folder = Path(path)
    if not folder.exists():
        looks_local = path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1
        if looks_local:
            raise TeacherError("no such folder", key=key, value=path, allowed="a folder, a hub name, demo")
        return
    if not (folder / "config.json").is_file():
        raise TeacherError("no config.json in it", key=key, value=path, allowed="a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
        if pickles:
            raise TeacherError(
                f"only pickled weights ({pickles[0]}), which can run code", key=key, value=path, allowed="safetensors",
                fix="where you trust it: load it and call model.save_pretrained(FOLDER)",
            )  # fmt: skip
        raise TeacherError("no weights in it", key=key, value=path, allowed="*.safetensors")


def _load_error(error: Exception, path: str, key: str) -> TeacherError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, SafetensorError):
        return TeacherError(f"damaged weights ({text})", key=key, value=path, fix="copy the folder again")
    if not Path(path).exists():
        return TeacherError(
            "neither a folder nor a model on a hub in reach", key=key, value=path, allowed="a folder, a hub name, demo"
        )
    return TeacherError(f"cannot be loaded as a masked-LM model ({text[:200]})", key=key, value=path)


def _check_complete(model: PreTrainedModel, info: dict[str, Any], path: str, key: str, new_head: bool) -> None:
    body = f"{model.base_model_prefix}."
    missing = sorted(info["missing_keys"])
    outside = [name for name in missing if not name.startswith(body)]
    inside = [name for name in missing if name.startswith(body)]
    if inside:
        raise TeacherError(f"{len(inside)} encoder weights are missing, e.g. {inside[0]}", key=key, value=path)
    if outside and not new_head:
        raise TeacherError(
            f"no MLM head ({len(outside)} missing weights, e.g. {outside[0]})", key=key, value=path,
            allowed="a masked-LM model", fix="export it with its head",
        )  # fmt: skip
    if info["mismatched_keys"]:
        name = sorted(str(k) for k in info["mismatched_keys"])[0]
        raise TeacherError(f"weights of another shape than its config.json says, e.g. {name}", key=key, value=path)


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
    if Path(path).exists() and not (Path(path) / "tokenizer.json").is_file() and not _other_vocabulary(Path(path)):
        raise TeacherError("no tokenizer in it", key=key, value=path, fix="save one beside it, or set tokenizer.path")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TeacherError(f"its tokenizer cannot be loaded ({text[:200]})", key=key, value=path) from error
    if not tokenizer.is_fast:
        raise TeacherError("its tokenizer is not a fast one", key=key, value=path, fix="save it as tokenizer.json")
    if tokenizer.mask_token_id is None:
        raise TeacherError("its tokenizer has no mask token", key=key, value=path, fix="take another")
    return tokenizer  # type: ignore[return-value]


def _other_vocabulary(folder: Path) -> bool:
    names = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
    return any((folder / name).is_file() for name in names)


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
            fix="use the teacher's tokenizer",
        )  # fmt: skip
