"""The objective against golden.json, numbers that numpy computed once from the formulas alone (see golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from distillkit.objective import HiddenCosineTerm, MaskedLMTerm, Objective, SoftTargetTerm
from distillkit.types import Batch, StepTotals
from tests.parity.models import FrozenTeacher

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


class Lookup(nn.Module):
    """An encoder that looks a token's hidden state up."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.table[input_ids])


class LookupLM(PreTrainedModel):
    """The golden model: hidden states are a table's rows, logits their products with a decoder."""

    base_model_prefix = "lookup"
    config_class = PretrainedConfig

    def __init__(self, name: str) -> None:
        table, decoder = (torch.tensor(GOLDEN[part][name], dtype=torch.float64) for part in ("hidden", "decoder"))
        super().__init__(PretrainedConfig(hidden_size=table.shape[1], vocab_size=len(decoder)))
        self.lookup, self.decoder = Lookup(table), nn.Parameter(decoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> MaskedLMOutput:
        return MaskedLMOutput(logits=self.lookup(input_ids, attention_mask).last_hidden_state @ self.decoder.T)


def micro_batches(cuts: list[slice]) -> list[Batch]:
    """The golden batch in pieces, each padded as the whole is."""
    ids, labels = torch.tensor(GOLDEN["input_ids"]), torch.tensor(GOLDEN["labels"])
    totals = StepTotals(GOLDEN["counts"]["cos"], GOLDEN["counts"]["mlm"])
    return [Batch(ids[cut], (ids[cut] != 0).long(), labels[cut], 0, n, totals) for n, cut in enumerate(cuts)]


def golden_objective(positions: str) -> Objective:
    w = GOLDEN["weights"]
    terms = {
        "ce": SoftTargetTerm(w["alpha"], w["temperature"], positions),
        "mlm": MaskedLMTerm(w["beta"]),
        "cos": HiddenCosineTerm(w["gamma"]),
    }
    return Objective(terms)


@pytest.mark.parametrize("cuts", [[slice(0, 3)], [slice(0, 1), slice(1, 3)]], ids=["whole", "cut"])
@pytest.mark.parametrize("positions", ["all", "predicted"])
def test_objective_gives_golden_numbers_when_batch_is_padded(positions: str, cuts: list[slice]) -> None:
    student, teacher, objective = LookupLM("student"), FrozenTeacher(LookupLM("teacher")), golden_objective(positions)
    outputs = [objective(student, teacher, batch) for batch in micro_batches(cuts)]
    assert sum(o.loss.item() for o in outputs) == pytest.approx(GOLDEN["totals"][positions], rel=1e-12)
    for name, golden_name in (("ce", f"ce_{positions}"), ("mlm", "mlm"), ("cos", "cos")):
        count = sum(int(o.sums[name].count) for o in outputs)
        assert count == GOLDEN["counts"][golden_name]
        mean = sum(float(o.sums[name].total) for o in outputs) / count
        assert mean == pytest.approx(GOLDEN["means"][golden_name], rel=1e-12)


def test_objective_gives_golden_gradient_when_batch_is_padded() -> None:
    student, teacher = LookupLM("student"), FrozenTeacher(LookupLM("teacher"))
    for batch in micro_batches([slice(0, 1), slice(1, 3)]):
        golden_objective("all")(student, teacher, batch).loss.backward()
    expected = torch.tensor(GOLDEN["student_decoder_gradient"], dtype=torch.float64)
    torch.testing.assert_close(student.decoder.grad, expected, rtol=1e-12, atol=1e-13)
