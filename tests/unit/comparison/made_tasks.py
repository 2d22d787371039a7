"""Tasks made from the shipped configuration files, the files they read, and a tokenizer of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from distillkit.building import make
from distillkit.config import conf_dir
from tests.faults.harness import SPECIAL, make_tokenizer


def make_task(name: str, **keys: Any) -> Any:
    """The task of conf/task/NAME.yaml with keys set on top, as `task.NAME.key=value` does."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(overrides=[f"+task@task.{name}={name}"])
    node = OmegaConf.to_container(OmegaConf.merge(cfg.task[name], OmegaConf.create(keys)), resolve=True)
    return make(node)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """JSON lines; the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_text(path: Path, text: str) -> str:
    """The file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return str(path)


def pair_tokenizer(*, types: bool = True) -> PreTrainedTokenizerFast:
    """The harness's WordPiece with [CLS] and [SEP] as BERT places them; `types` as BERT gives them, too."""
    tokenizer = make_tokenizer()
    special = [(token, SPECIAL.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    names = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    tokenizer.model_input_names = names
    return tokenizer
