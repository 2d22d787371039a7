"""Decay groups and learning-rate schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from distillkit.errors import ConfigError
from distillkit.training.optim import decay_groups, schedule
from tests.parity.models import tiny_model

PEAK, TOTAL = 2.0, 20


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert"])
def test_decay_groups_hold_each_parameter_once_when_some_are_shared(model_type: str) -> None:
    model = tiny_model(model_type)
    decayed, plain = decay_groups(model, nn.ModuleList([model, nn.Linear(3, 2)]))
    grouped = [id(p) for p in (*decayed["params"], *plain["params"])]
    assert len(grouped) == len(set(grouped)) == len(list(model.parameters())) + 2
    assert {id(p) for p in model.parameters()} <= set(grouped)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert", "roberta"])
def test_decay_groups_spare_biases_and_norms_when_the_model_has_them(model_type: str) -> None:
    model = tiny_model(model_type)
    decayed, plain = decay_groups(model)
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm) for p in m.parameters()}
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    assert norms
    assert {id(p) for p in plain["params"]} == norms | biases
    assert plain["weight_decay"] == 0.0
    assert "weight_decay" not in decayed


def test_decay_groups_leave_frozen_parameters_out() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    decayed, plain = decay_groups(layer)
    assert decayed["params"] == [layer.weight]
    assert plain["params"] == []


def rates(name: str, warmup_steps: float) -> list[float]:
    """The learning rate of each of TOTAL steps, then the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = schedule(optimizer, name=name, warmup_steps=warmup_steps, total_steps=TOTAL)
    found = []
    for _ in range(TOTAL + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("name", "middle", "last", "after"),
    [
        ("linear", PEAK / 2, PEAK / 16, 0.0),
        ("cosine", PEAK / 2, PEAK * (1 + math.cos(math.pi * 15 / 16)) / 2, 0.0),
        ("constant_with_warmup", PEAK, PEAK, PEAK),
    ],
)
def test_schedule_warms_up_then_decays_when_four_of_twenty_steps_warm_up(
    name: str, middle: float, last: float, after: float
) -> None:
    found = rates(name, 4)
    assert found[:5] == pytest.approx([0, PEAK / 4, PEAK / 2, PEAK * 3 / 4, PEAK])
    assert found[12] == pytest.approx(middle)
    assert found[19] == pytest.approx(last)
    assert found[20] == pytest.approx(after, abs=1e-12)


def test_schedule_reads_share_of_the_run_when_warmup_is_below_one() -> None:
    assert rates("linear", 0.2) == rates("linear", 4)
    assert rates("linear", 0.05) == rates("linear", 1)


def test_schedule_starts_at_the_peak_when_there_is_no_warmup() -> None:
    assert rates("linear", 0)[0] == PEAK


def test_schedule_reaches_the_peak_at_the_end_when_warmup_exceeds_the_run() -> None:
    assert rates("linear", 10_000)[19] == pytest.approx(PEAK * 19 / 20)


def test_schedule_is_refused_when_warmup_is_negative() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.warmup_steps=-1"):
        rates("linear", -1)
