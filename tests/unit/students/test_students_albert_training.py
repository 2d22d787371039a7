"""What training, checkpoints and folders see of ALBERT students whose layers share: each weight once."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from distillkit.albert_shape import SHARES
from distillkit.export import export
from distillkit.sharing import PARTS, stored_parameters
from distillkit.students import build_albert, count_parameters
from distillkit.teachers import load_model
from distillkit.training.checkpointing import DirectoryCheckpointIO
from distillkit.training.clipping import clip_gradients
from distillkit.training.optim import decay_groups
from tests.faults.harness import make_tokenizer
from tests.unit.students.conftest import MakeSource

MODES = pytest.mark.parametrize("share", SHARES)


def train_a_step(model: PreTrainedModel) -> None:
    ids = torch.randint(5, 100, (3, 16), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    orders = {"sentence_order_label": torch.tensor([0, 1, 1])} if hasattr(model, "sop_classifier") else {}
    model(input_ids=ids, labels=ids, **orders).loss.backward()
    optimizer.step()


@pytest.fixture
def make(make_source: MakeSource) -> Callable[[Any], PreTrainedModel]:
    """make(share): a student of four layers, all weights as in training."""

    def build(share: Any) -> PreTrainedModel:
        return build_albert(make_source("bert"), share=share, embedding_size=8, dropout=0.0).model

    return build


@MODES
def test_optimizer_has_each_weight_once_when_layers_share(share: str, make: Callable[[Any], PreTrainedModel]) -> None:
    student = make(share)
    found = [weight for group in decay_groups(student) for weight in group["params"]]
    assert len({id(weight) for weight in found}) == len(found)
    assert sum(weight.numel() for weight in found) == count_parameters(student).unique
    attention = 1 if share in ("all", "attention") else 4
    ffn = 1 if share in ("all", "ffn") else 4
    rest = [name for name, _ in student.named_parameters() if "albert_layer_groups" not in name]
    assert len(found) == 10 * attention + 6 * ffn + len(rest)


@MODES
def test_clipping_counts_each_weight_once_when_layers_share(share: str, make: Callable[[Any], PreTrainedModel]) -> None:
    student = make(share)
    for weight in student.parameters():
        weight.grad = torch.full_like(weight, 2.0)
    parameters = [weight for group in decay_groups(student) for weight in group["params"]]
    norm = clip_gradients(parameters, 1.0, "norm")
    unique = count_parameters(student).unique
    assert float(norm) == pytest.approx(2 * unique**0.5, rel=1e-5)
    clipped = torch.cat([weight.grad.flatten() for weight in parameters if weight.grad is not None])
    torch.testing.assert_close(clipped, torch.full_like(clipped, unique**-0.5))


@MODES
def test_checkpoint_holds_each_weight_once_when_layers_share(
    share: str, make: Callable[[Any], PreTrainedModel], tmp_path: Path
) -> None:
    student = make(share)
    train_a_step(student)
    folder = tmp_path / "step_00000001"
    DirectoryCheckpointIO().save_checkpoint({"global_step": 1, "state_dict": student.state_dict()}, folder)
    state = DirectoryCheckpointIO().load_checkpoint(folder)["state_dict"]
    stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    assert sum(stored.values()) == 4 * count_parameters(student).unique
    again = make(share)
    again.load_state_dict(state)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())
    assert count_parameters(again) == count_parameters(student)


@MODES
def test_folder_takes_what_is_said_of_it_when_exported(
    share: str, make: Callable[[Any], PreTrainedModel], tmp_path: Path
) -> None:
    student = make(share)
    export(student, make_tokenizer(), tmp_path / "student")
    stored = load_file(tmp_path / "student" / "model.safetensors")
    count = count_parameters(student)
    assert sum(value.numel() for value in stored.values()) == stored_parameters(student)
    assert stored_parameters(student) == (count.nominal if share in PARTS else count.unique)
    again = load_model(str(tmp_path / "student"))
    assert count_parameters(again).unique == count.unique and stored_parameters(again) == stored_parameters(student)


@pytest.mark.slow
@pytest.mark.ci
def test_logits_are_the_trained_models_when_stock_transformers_loads_the_folder_elsewhere(
    make_source: MakeSource, tmp_path: Path
) -> None:
    shapes: list[dict[str, Any]] = [{"share": share} for share in SHARES] + [{"share": "all", "num_groups": 2}]
    ids = torch.randint(5, 100, (3, 16), generator=torch.Generator().manual_seed(1))
    save_file({"ids": ids}, tmp_path / "ids")
    expected = {}
    for sop, shape in itertools.product((0.0, 1.0), shapes):
        student = build_albert(make_source("bert"), embedding_size=8, dropout=0.0, sop=sop, **shape).model
        train_a_step(student)
        name = "_".join([*map(str, shape.values()), *(["order"] if sop else [])])
        export(student, make_tokenizer(), tmp_path / name)
        with torch.no_grad():
            found = student.eval()(input_ids=ids)
        expected[name] = found.prediction_logits if sop else found.logits
        if sop:
            expected[f"{name}.sop"] = found.sop_logits
    program = f"""
import sys
sys.modules["distillkit"] = None
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining
torch.set_num_threads({torch.get_num_threads()})
place, found = Path({str(tmp_path)!r}), {{}}
for name in {[name for name in expected if "." not in name]!r}:
    order = name.endswith("order")
    auto = AutoModelForPreTraining if order else AutoModelForMaskedLM
    model, info = auto.from_pretrained(place / name, output_loading_info=True)
    assert type(model).__name__ == ("AlbertForPreTraining" if order else "AlbertForMaskedLM"), type(model)
    assert not any(info.values()), info
    with torch.no_grad():
        output = model(input_ids=load_file(place / "ids")["ids"])
    found[name] = output.prediction_logits if order else output.logits
    if order:
        found[name + ".sop"] = output.sop_logits
save_file(found, place / "logits")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits = load_file(tmp_path / "logits")
    assert logits.keys() == expected.keys() and len(logits) == 3 * len(shapes)
    assert all(torch.equal(logits[name], expected[name]) for name in expected)
    assert len({float(value.double().sum()) for value in logits.values()}) == len(logits)
