"""Which models may teach, which are refused and with what words, and that a teacher stays as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

from distillkit.errors import ConfigError, TeacherError
from distillkit.teachers import Teacher, check_same_vocabulary, check_vocabulary, load_model, load_tokenizer
from tests.parity.models import make_batch, tiny_model

SIZES: dict[str, Any] = dict(
    vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
    max_position_embeddings=40, pad_token_id=0,
)  # fmt: skip
SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
FEED_FORWARD = "bert.encoder.layer.1.output.dense.weight"


def _tokenizer(words: list[str] | None = None, **tokens: str | None) -> PreTrainedTokenizerFast:
    vocabulary = [*SPECIAL.values(), *(words or [f"w{i}" for i in range(90)])]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **(SPECIAL | tokens))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with its head and its tokenizer; not to be changed."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    BertForMaskedLM(BertConfig(**SIZES)).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "bert"))


def _change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def _change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    file.unlink()  # load_file maps the file: writing over it would change the tensors being written
    save_file(weights, file, metadata={"format": "pt"})


def _refusal(path: Path | str, **kwargs: Any) -> str:
    with pytest.raises(TeacherError) as caught:
        load_model(str(path), **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), "T")


# --- models that may teach ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "config"), [(BertForMaskedLM, BertConfig), (RobertaForMaskedLM, RobertaConfig)], ids=["bert", "roberta"]
)
def test_load_model_returns_every_weight_when_the_folder_is_whole(
    build: Any, config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = build(config(**SIZES)).to(torch.bfloat16)
    original.save_pretrained(tmp_path)
    capfd.readouterr()
    model = load_model(str(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert model.dtype == torch.float32 and not model.training
    expected = original.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name].float()) for name, value in model.state_dict().items())


@pytest.mark.parametrize("order", [True, False])
def test_load_model_keeps_the_head_for_order_when_the_folder_has_one(order: bool, tmp_path: Path) -> None:
    original = tiny_model("albert", order=order)
    original.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    assert type(model) is type(original)
    expected = original.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_load_model_keeps_an_untied_decoder_when_the_config_says_so(tmp_path: Path) -> None:
    original = BertForMaskedLM(BertConfig(**SIZES, tie_word_embeddings=False))
    original.save_pretrained(tmp_path)
    decoder = load_model(str(tmp_path)).get_output_embeddings().weight
    assert torch.equal(decoder, original.cls.predictions.decoder.weight)


def test_load_model_reads_all_shards_when_the_weights_are_sharded(saved: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    BertForMaskedLM.from_pretrained(saved, trust_remote_code=False).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert torch.equal(
        load_model(str(folder)).get_parameter(FEED_FORWARD), load_file(saved / "model.safetensors")[FEED_FORWARD]
    )


def test_load_model_keeps_the_encoder_when_a_new_head_is_wanted(tmp_path: Path) -> None:
    encoder = BertModel(BertConfig(**SIZES))
    encoder.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), new_head=True).base_model.state_dict()
    assert loaded and all(torch.equal(value, encoder.state_dict()[name]) for name, value in loaded.items())


# --- models that may not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "config", "weight"),
    [(BertModel, BertConfig, "cls.predictions.bias"), (RobertaModel, RobertaConfig, "lm_head.bias")],
    ids=["bert", "roberta"],
)
def test_load_model_refuses_a_random_head_when_the_folder_has_none(
    build: Any, config: Any, weight: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    build(config(**SIZES)).save_pretrained(tmp_path)
    capfd.readouterr()
    assert _refusal(tmp_path) == (
        f"teacher.path=T: no MLM head (6 missing weights, e.g. {weight}); allowed: a masked-LM model;"
        " fix: export it with its head"
    )
    assert capfd.readouterr() == ("", "")


WEIGHTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "nan": (lambda w: w[FEED_FORWARD][3].fill_(torch.nan), f"{FEED_FORWARD} holds NaN or infinity"),
    "inf": (lambda w: w["cls.predictions.bias"][0].fill_(-torch.inf), "cls.predictions.bias holds NaN or infinity"),
    "missing": (lambda w: w.pop(FEED_FORWARD), f"1 encoder weights are missing, e.g. {FEED_FORWARD}"),
    "shape": (lambda w: w.update({FEED_FORWARD: torch.zeros(32, 47)}), f"{FEED_FORWARD} has another shape"),
    "other model": (lambda w: (w.clear(), w.update(a=torch.zeros(2))), "encoder weights are missing"),
}


@pytest.mark.parametrize(("change", "message"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_load_model_names_the_weight_when_it_cannot_be_used(change: Any, message: str, folder: Path) -> None:
    _change_weights(folder, change)
    assert message in _refusal(folder)


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "fewer layers": ({"num_hidden_layers": 1}, "more layers (bert.encoder.layer.1."),
    "more layers": ({"num_hidden_layers": 3}, "encoder weights are missing, e.g. bert.encoder.layer.2."),
    "vocabulary": ({"vocab_size": 130}, "bert.embeddings.word_embeddings.weight has another shape"),
    "not a number": ({"hidden_size": "wide"}, "cannot be loaded as a masked-LM model"),
    "unknown type": ({"model_type": "zork"}, "cannot be loaded as a masked-LM model"),
}


@pytest.mark.parametrize(("values", "message"), CONFIGS.values(), ids=CONFIGS.keys())
def test_load_model_refuses_when_the_config_does_not_fit_the_weights(
    values: dict[str, Any], message: str, folder: Path
) -> None:
    _change_config(folder, **values)
    assert message in _refusal(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_load_model_names_the_file_when_it_is_truncated(kept: float, folder: Path) -> None:
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "T: model.safetensors is damaged (" in _refusal(folder)


def test_load_model_names_the_file_when_a_shard_is_missing(saved: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    BertForMaskedLM.from_pretrained(saved, trust_remote_code=False).save_pretrained(folder, max_shard_size="20KB")
    shard = min(folder.glob("model-*.safetensors"))
    shard.unlink()
    assert shard.name in _refusal(folder)


def test_load_model_names_the_conversion_when_weights_are_pickled(saved: Path, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never to be opened")
    message = _refusal(folder)
    assert "only pickled weights (pytorch_model.bin)" in message and "save_pretrained('T')" in message


def test_load_model_runs_no_code_when_the_folder_brings_its_own(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    _change_config(folder, model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForMaskedLM": "own.C"})
    assert "cannot be loaded" in _refusal(folder)
    assert not trace.exists()


def test_load_model_names_the_type_when_it_is_no_masked_lm(tmp_path: Path) -> None:
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=100)).save_pretrained(tmp_path)
    assert "transformers has no masked-LM class for gpt2" in _refusal(tmp_path)


def test_load_model_says_what_is_missing_when_the_folder_is_not_a_model(folder: Path, tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none").startswith("teacher.path=T: no such folder")
    assert "a file" in _refusal(folder / "config.json")
    (folder / "model.safetensors").unlink()
    assert "no weights in it" in _refusal(folder)
    (folder / "config.json").write_text("{")
    (folder / "model.safetensors").write_bytes(b"")
    assert "is damaged" in _refusal(folder)
    (folder / "config.json").unlink()
    assert "no config.json in it" in _refusal(folder, key="student.init_from")


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_loading_is_one_line_at_once_when_the_hub_is_out_of_reach(load: Any) -> None:
    with pytest.raises(TeacherError, match=r"^the\.key=no/model: no such folder, and the hub is out of reach; allowed"):
        load("no/model", key="the.key")
    with pytest.raises(TeacherError, match="neither a folder nor a model of the hub"):
        load("no model", key="the.key")


# --- the teacher -------------------------------------------------------------------------------------------------


def test_teacher_is_frozen_and_unseen_by_modules_when_held_by_one(saved: Path) -> None:
    teacher = Teacher.from_pretrained(str(saved), dtype="bfloat16")
    holder = torch.nn.Module()
    holder.teacher = teacher
    assert not list(holder.parameters()) and not holder.state_dict()
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.model.training and teacher.model.dtype == torch.bfloat16 and teacher.hidden_size == 32


def test_teacher_hidden_states_serve_autograd_when_a_student_uses_them(saved: Path) -> None:
    teacher = Teacher.from_pretrained(str(saved))
    batch = make_batch((4, 7))
    hidden = teacher.hidden(batch)
    expected = load_model(str(saved)).base_model(batch.input_ids, attention_mask=batch.attention_mask)[0]
    assert batch.attention_mask is not None
    torch.testing.assert_close(hidden, expected[batch.attention_mask.bool()])  # the shorter row comes first in both
    assert hidden.shape == (11, 32) and not hidden.requires_grad
    weight = torch.ones(32, requires_grad=True)
    (hidden * weight).sum().backward()  # raises for a tensor of inference_mode
    assert weight.grad is not None


def test_teacher_refuses_when_the_dtype_is_unknown(saved: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.dtype=int8: .* allowed: float32, bfloat16, float64"):
        Teacher.from_pretrained(str(saved), dtype="int8")


# --- tokenizers --------------------------------------------------------------------------------------------------


def test_load_tokenizer_returns_the_same_map_when_saved(saved: Path) -> None:
    assert load_tokenizer(str(saved)).get_vocab() == _tokenizer().get_vocab()


def test_load_tokenizer_says_why_when_it_cannot_serve(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    _tokenizer(mask_token=None).save_pretrained(tmp_path / "maskless")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "tokenizer_config.json").write_text('{"tokenizer_class": "CanineTokenizer"}')
    (tmp_path / "slow" / "vocab.txt").write_text("")
    (folder / "tokenizer.json").write_text("{")
    reasons = {
        "empty": "no tokenizer in it",
        "maskless": "no mask token",
        "slow": "not a fast",
        "bert": "cannot be loaded",
    }
    for name, reason in reasons.items():
        with pytest.raises(TeacherError, match=reason):
            load_tokenizer(str(tmp_path / name))


def test_vocabulary_is_refused_when_an_id_lies_beyond_the_embeddings(saved: Path) -> None:
    model = load_model(str(saved))
    check_vocabulary(_tokenizer([f"w{i}" for i in range(95)]), model)
    with pytest.raises(TeacherError, match=r"student\.init_from=.* ids up to 100 \('w95'\), its model only 100"):
        check_vocabulary(_tokenizer([f"w{i}" for i in range(96)]), model, key="student.init_from")


def test_vocabularies_are_refused_when_permuted_at_the_same_size() -> None:
    check_same_vocabulary(_tokenizer(["a", "b", "c"]), _tokenizer(["a", "b", "c"]))
    with pytest.raises(TeacherError, match=r"'b': 6 against 7"):
        check_same_vocabulary(_tokenizer(["a", "b", "c"]), _tokenizer(["a", "c", "b"]))
    with pytest.raises(TeacherError, match=r"'d': None against 8; sizes 8 and 9"):
        check_same_vocabulary(_tokenizer(["a", "b", "c"]), _tokenizer(["a", "b", "c", "d"]))
