"""ALBERT models that share a part of their layers: what is one, what is stored, and what is shared again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AlbertForSequenceClassification,
    AlbertModel,
    AutoModelForMaskedLM,
    PreTrainedModel,
)

from distillkit.errors import ConfigError, TeacherError
from distillkit.export import export
from distillkit.inspection import describe_model
from distillkit.sharing import PARTS, restore_sharing, share_layers
from distillkit.students import build_pretrained, build_shallow
from distillkit.students.counting import count_parameters
from distillkit.teachers import load_model
from tests.faults.harness import make_bert, make_tokenizer

BOTH = pytest.mark.parametrize("part", PARTS)
IDS = torch.randint(5, 90, (3, 16), generator=torch.Generator().manual_seed(0))
GROUP = "albert.encoder.albert_layer_groups.{}.albert_layers.0."


def make_albert(**settings: Any) -> AlbertForMaskedLM:
    """A random ALBERT of three layers with a group each, in which no two weights are equal, without dropout."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 100, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 3, "num_hidden_groups": 3,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 40,
    }  # fmt: skip
    model = AlbertForMaskedLM(AlbertConfig(**(sizes | settings))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train_a_step(model: PreTrainedModel) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()


def stored(folder: Path, part: str = "ffn") -> Path:
    """The export of a model that shares a part."""
    model = make_albert()
    share_layers(model, part)
    export(model, make_tokenizer(), folder)
    return folder


def change(folder: Path, name: str, **config: Any) -> None:
    """Stores the model as somebody would who trained it with plain transformers: one weight is another."""
    model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=False)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] += 1
    model.config.update(config)
    model.save_pretrained(folder)


@pytest.mark.parametrize(("part", "unique"), [("attention", 63_647_232), ("ffn", 37_686_528)])
def test_shared_part_counts_once_when_albert_has_the_papers_size(part: str, unique: int) -> None:
    config = AlbertConfig(
        vocab_size=30000, embedding_size=128, hidden_size=768, num_hidden_layers=12, num_hidden_groups=12,
        num_attention_heads=12, intermediate_size=3072,
    )  # fmt: skip
    with torch.device("meta"):
        model = AlbertModel(config)
    share_layers(model, part)
    count = count_parameters(model)
    assert (count.unique, count.nominal) == (unique, 89_650_176)
    assert sum(weight.numel() for weight in model.parameters()) == unique


@BOTH
def test_all_layers_use_the_first_groups_part_when_shared(part: str) -> None:
    model, plain = make_albert(), make_albert()
    share_layers(model, part)
    weights = plain.state_dict()
    for name in weights:
        own = name.removeprefix(GROUP.format(1))
        if own != name and own.startswith(PARTS[part]):
            weights[name] = weights[GROUP.format(0) + own]
            weights[GROUP.format(2) + own] = weights[GROUP.format(0) + own]
    plain.load_state_dict(weights)
    assert torch.equal(logits(model), logits(plain)) and not torch.equal(logits(model), logits(make_albert()))
    found = model(input_ids=IDS, output_hidden_states=True, output_attentions=True)
    assert (len(found.hidden_states), model.config.student_share) == (4, part)


def test_attentions_are_one_a_layer_when_attention_is_shared() -> None:
    model = make_albert()
    model.set_attn_implementation("eager")
    share_layers(model, "attention")
    assert len(model(input_ids=IDS, output_attentions=True).attentions) == 3


@BOTH
def test_gradients_of_all_layers_sum_when_a_part_is_shared(part: str) -> None:
    model = make_albert()
    share_layers(model, part)
    plain = make_albert()
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each(input_ids=IDS, labels=IDS).loss.backward()
    for name, weight in model.named_parameters():
        own = name.removeprefix(GROUP.format(0))
        shared = own != name and own.startswith(PARTS[part])
        copies = [GROUP.format(group) + own for group in range(3)] if shared else [name]
        expected = torch.stack([plain.get_parameter(each).grad for each in copies]).sum(0)  # type: ignore[arg-type]
        torch.testing.assert_close(weight.grad, expected)


@BOTH
def test_shared_model_is_the_same_when_trained_exported_and_loaded(part: str, tmp_path: Path) -> None:
    model = make_albert()
    share_layers(model, part)
    train_a_step(model)
    export(model, make_tokenizer(), tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert {key for key in config if "share" in key} == {"student_share"} and config["student_share"] == part
    names = load_file(tmp_path / "student" / "model.safetensors").keys()
    assert {GROUP.format(group) + "ffn.weight" for group in range(3)} < names
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "student", trust_remote_code=False)
    again = load_model(str(tmp_path / "student"))
    assert torch.equal(logits(plain), logits(model)) and torch.equal(logits(again), logits(model))
    assert describe_model(again) == describe_model(model)
    assert describe_model(plain)["unique_parameters"] > describe_model(model)["unique_parameters"]
    train_a_step(again)
    export(again, make_tokenizer(), tmp_path / "student")
    assert torch.equal(logits(load_model(str(tmp_path / "student"))), logits(again))


def test_export_leaves_the_model_shared_when_written(tmp_path: Path) -> None:
    model = make_albert()
    share_layers(model, "ffn")
    before = describe_model(model)
    export(model, make_tokenizer(), tmp_path / "student")
    assert describe_model(model) == before


def test_sharing_is_restored_when_the_model_has_another_head(tmp_path: Path) -> None:
    folder = stored(tmp_path / "student")
    model = AlbertForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
    unshared = count_parameters(model).unique
    restore_sharing(model)
    layer = 2 * 32 * 64 + 64 + 32 + 2 * 32
    assert unshared - count_parameters(model).unique == 2 * layer


def test_models_are_left_alone_when_their_config_names_no_part() -> None:
    for model in (make_albert(), make_bert()):
        before = copy.deepcopy(model.state_dict())
        restore_sharing(model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert len({value.data_ptr() for value in model.base_model.parameters()}) == len(
            [*model.base_model.parameters()]
        )


@pytest.mark.parametrize(
    ("part", "module"), [("attention", "attention.LayerNorm.bias"), ("ffn", "full_layer_layer_norm.weight")]
)
def test_folder_is_refused_when_it_was_trained_unshared(part: str, module: str, tmp_path: Path) -> None:
    change(stored(tmp_path / "student", part), GROUP.format(2) + module)
    with pytest.raises(TeacherError) as caught:
        load_model(str(tmp_path / "student"), key="MODEL_DIR")
    assert str(caught.value) == (
        f"MODEL_DIR={tmp_path}/student: its config.json says that the layers share their {part}, but"
        f" {GROUP.format(2).removeprefix('albert.')}{module} is not that of the first: it was trained unshared;"
        " fix: remove student_share from its config.json"
    )


def test_folder_is_accepted_when_it_was_trained_unshared_in_the_other_part(tmp_path: Path) -> None:
    change(stored(tmp_path / "student", "attention"), GROUP.format(2) + "ffn.weight")
    assert load_model(str(tmp_path / "student")).config.student_share == "attention"


@pytest.mark.parametrize("part", ["both", ["ffn"]])
def test_folder_is_refused_when_its_config_names_another_part(part: object, tmp_path: Path) -> None:
    change(stored(tmp_path / "student"), GROUP.format(0) + "ffn.bias", student_share=part)
    with pytest.raises(TeacherError, match=r"albert models cannot share .* allowed: attention, ffn of an albert model"):
        load_model(str(tmp_path / "student"))


def test_bert_is_refused_when_it_is_to_share() -> None:
    with pytest.raises(TeacherError, match=r"^bert models cannot share 'ffn' across their layers"):
        share_layers(make_bert(), "ffn")


@BOTH
def test_pretrained_student_shares_when_its_source_does(part: str, tmp_path: Path) -> None:
    source = load_model(str(stored(tmp_path / "source", part)))
    student, report = build_pretrained(source)
    assert torch.equal(logits(student.eval()), logits(source))
    assert describe_model(student) == describe_model(source)
    tied = [how for how in report.student.values() if how.startswith(f"tied to {GROUP.format(0)}")]
    assert len(tied) == 2 * (10 if part == "attention" else 6)


def test_shallow_student_is_refused_when_its_source_is_an_albert_with_a_group_for_each_layer() -> None:
    with pytest.raises(ConfigError, match="does not keep one block per layer"):
        build_shallow(make_albert())
