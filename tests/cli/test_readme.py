"""What the README shows works as it stands there."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from distillkit import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
WORDS = ["the", "film", "was", "a", "long", "and", "rather", "good", "one", "about", "two", "people", "meet", "in"]
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def make_teacher_and_corpus(folder: Path) -> None:
    """my_bert/, a random BERT of 4 layers with its tokenizer, and corpus/ with one file of 399 lines."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL).save_pretrained(folder / "my_bert")
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(vocabulary), **shape)).save_pretrained(folder / "my_bert")
    (folder / "corpus").mkdir()
    lines = [" ".join(WORDS[(i * k) % len(WORDS)] for k in range(1, 40)) for i in range(1, 400)]
    (folder / "corpus" / "a.txt").write_text("\n".join(lines))


def test_readme_python_example_trains_and_exports_when_run_as_printed(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)  # type: ignore[union-attr]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 15
    make_teacher_and_corpus(tmp_path)
    torch.manual_seed(0)
    code = code.replace("max_steps=1000", "max_steps=3")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    student = AutoModelForMaskedLM.from_pretrained(tmp_path / "student", trust_remote_code=False)
    assert student.config.model_type == "distilbert" and student.config.n_layers == 3
    teacher = AutoModelForMaskedLM.from_pretrained(tmp_path / "my_bert", trust_remote_code=False)
    moved = student.vocab_layer_norm.bias - teacher.cls.predictions.transform.LayerNorm.bias
    assert moved.abs().max() > 0, "nothing was trained"


def test_readme_keys_exist_when_named_in_the_table() -> None:
    named = set(re.findall(r"\b((?:student|loss|data|trainer|teacher)\.[a-z_]+)(?==)", README))
    assert len(named) > 15
    known = {"data.name", "data.config"}  # with data=hub
    for student in ("distilbert", "albert"):
        known |= set(config.keys("train", [f"student={student}"]))
    assert named <= known


def test_readme_tables_are_those_of_the_json_files_when_rendered() -> None:
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "".join(page.read_text() for page in module.PAGES)
    assert module.filled(text) == text, "run scripts/update_readme.py"
    shown = [file for file in module.TABLES if f"<!-- {file} table -->" in text]
    assert shown == list(module.TABLES), "a table is missing its markers"
    emptied = re.sub(r"(table -->\n).*?(<!-- end -->)", r"\1\2", text, flags=re.S)
    assert emptied != text and module.filled(emptied) == text


def test_figures_are_those_of_the_experiments_when_their_steps_change() -> None:
    figures = ROOT / "docs" / "figures"
    demo, control = (json.loads((figures / f"{name}.json").read_text()) for name in ("demo", "control"))
    for experiment in ("demo_distilbert", "demo_albert", "demo_no_teacher"):
        steps = config.load("train", [f"experiment={experiment}"])[0].trainer.max_steps
        assert control["steps"] == steps and {run["step"] for run in demo["runs"].values()} == {steps}
    assert len({run["seed"] for run in control["runs"]}) >= 2
