"""The objective against a plain transcription of the original DistilBERT code, values and all gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.encoding import takes_rows
from distillkit.objective import HiddenCosineTerm, MaskedLMTerm, Objective, SoftTargetTerm
from distillkit.types import Batch
from tests.parity.models import FrozenTeacher, make_batch, nearby, tiny_model
from tests.parity.reference import Weights, distilbert_losses

WEIGHTS = Weights()
NEARLY_EQUAL = 2e-2
"""Relative distance of the weights. Closer, and the transcription itself is off by more than 1e-10 in float64: its KL
cancels, and CosineEmbeddingLoss adds 1e-12 to squared norms. tests/unit/test_losses.py goes on from there."""

PAIRS = [("bert", "bert"), ("bert", "distilbert"), ("bert", "albert"), ("roberta", "roberta")]


def make_objective(positions: str, chunk_rows: int = 7) -> Objective:
    terms = {
        "ce": SoftTargetTerm(WEIGHTS.ce, WEIGHTS.temperature, positions),
        "mlm": MaskedLMTerm(WEIGHTS.mlm),
        "cos": HiddenCosineTerm(WEIGHTS.cos),
    }
    return Objective(terms, student_width=32, teacher_width=32, chunk_rows=chunk_rows)


def ours(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, objective: Objective) -> dict[str, Tensor]:
    """Each term's mean, the total, and grad/<name> of every parameter that has one."""
    student.zero_grad()
    output = objective(student, FrozenTeacher(teacher), batch)
    output.loss.backward()
    means = {name: total / count for name, (total, count) in output.sums.items()}
    return means | {"total": output.loss.detach()} | gradients(student)


def originals(student: PreTrainedModel, teacher: PreTrainedModel, batch: Batch, positions: str) -> dict[str, Tensor]:
    """The same of the transcription, always computed in float64 from the same weights."""
    student, teacher = copy.deepcopy(student).double(), copy.deepcopy(teacher).double()
    for model in (student, teacher):
        model.set_attn_implementation("eager")
    student.zero_grad()
    losses = distilbert_losses(
        student, teacher, batch.input_ids, batch.attention_mask, batch.labels,
        weights=WEIGHTS, restrict_ce_to_mask=positions == "predicted",
    )  # fmt: skip
    losses["total"].backward()
    return {name: loss.detach() for name, loss in losses.items()} | gradients(student)


def gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    return {f"grad/{name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def largest_deviation(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Relative for a value; for gradients relative to the largest entry of all of them."""
    assert found.keys() == expected.keys()
    largest = max(float(x.abs().max()) for name, x in expected.items() if name.startswith("grad/"))
    scales = {n: largest if n.startswith("grad/") else float(x.abs()) for n, x in expected.items()}
    return max(float((found[n] - x).abs().max()) / scales[n] for n, x in expected.items())


@pytest.mark.parametrize("positions", ["all", "predicted"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"], ids=["stock", "quick"])
@pytest.mark.parametrize(("teacher_type", "student_type"), PAIRS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_objective_equals_original_code_when_models_are_random(
    teacher_type: str, student_type: str, attention: str, packed: bool, positions: str, dtype: torch.dtype,
    tolerance: float,
) -> None:  # fmt: skip
    """With stock attention padding is computed and left out; with the quick one it is not computed (`encoding`)."""
    teacher = tiny_model(teacher_type).to(dtype)
    student = tiny_model(student_type, seed=1, attention=attention).to(dtype)
    batch = make_batch(packed=packed)
    found = ours(student, teacher, batch, make_objective(positions))
    assert takes_rows(student) == (attention == "sdpa")
    assert largest_deviation(found, originals(student, teacher, batch, positions)) < tolerance


@pytest.mark.parametrize("positions", ["all", "predicted"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_objective_equals_original_code_when_models_are_nearly_equal(packed: bool, positions: str) -> None:
    teacher = tiny_model().double()
    student = nearby(teacher, NEARLY_EQUAL)
    batch = make_batch(packed=packed)
    expected = originals(student, teacher, batch, positions)
    assert 0 < expected["ce"] < 0.01
    assert largest_deviation(ours(student, teacher, batch, make_objective(positions)), expected) < 1e-10


@pytest.mark.parametrize("chunk_rows", [1, 7, 10_000])
@pytest.mark.parametrize("positions", ["all", "predicted"])
def test_objective_equals_original_code_when_rows_are_chunked(positions: str, chunk_rows: int) -> None:
    teacher, student, batch = tiny_model().double(), tiny_model("distilbert", seed=1).double(), make_batch()
    found = ours(student, teacher, batch, make_objective(positions, chunk_rows))
    assert largest_deviation(found, originals(student, teacher, batch, positions)) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_objective_gives_student_no_distance_when_it_is_the_teacher(dtype: torch.dtype) -> None:
    teacher = tiny_model().to(dtype)
    objective = Objective({"ce": SoftTargetTerm(), "cos": HiddenCosineTerm()})
    found = ours(nearby(teacher, 0.0), teacher, make_batch(), objective)
    assert all(float(x.abs().max()) == 0 for x in found.values())
