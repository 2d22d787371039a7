"""What info measures: as many validations as training makes, and no other fact lost when the GPU is full."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distillkit import building, probe
from distillkit.objective import MaskedLMTerm, Objective
from distillkit.training.module import DistillationModule
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs, make_bert

STEPS, EPOCH, ACCUMULATE = 20, 4, 3
"""Optimizer steps of the run and of an epoch, micro-batches of a step."""


@pytest.mark.parametrize(
    ("interval", "every_n_epoch", "validations"),
    [(1.0, 1, 5), (1.0, 2, 2), (0.5, 1, 10), (0.3, None, 20), (7, 1, 6), (1, 3, 20), (0.001, 1, 20), (1000, 1, 0)],
)
def test_validations_are_counted_as_training_makes_them_when_probed(
    interval: int | float, every_n_epoch: int | None, validations: int
) -> None:
    plan = SimpleNamespace(steps_per_epoch=EPOCH, batches_per_epoch=EPOCH * ACCUMULATE)
    data = SimpleNamespace(plan=lambda ranks, accumulate: plan)
    settings = {"val_check_interval": interval, "check_val_every_n_epoch": every_n_epoch}
    settings |= {"max_steps": STEPS, "max_epochs": None}
    module = DistillationModule(make_bert(), Objective({"mlm": MaskedLMTerm()}, student_width=32))
    module._trainer = trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=data,
        accumulate_grad_batches=ACCUMULATE,
        world_size=1,
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace()),
        **settings,
    )
    module.setup("fit")
    cfg = {"trainer": settings | {"accumulate_grad_batches": ACCUMULATE, "devices": 1, "num_nodes": 1}}
    parts: Any = SimpleNamespace(data=data)
    assert probe._validations(cfg, parts) == STEPS * ACCUMULATE // trainer.val_check_interval == validations
    assert trainer.val_check_interval % ACCUMULATE == 0 and trainer.check_val_every_n_epoch is None


def test_info_keeps_its_other_facts_when_the_gpu_is_full(
    call: Call, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(building, "build_module", full)
    words = ["info", *inputs.words(), "data.max_length=48", "data.batch_size=4", "trainer.max_steps=50"]
    found = json.loads(call(*words, "--json").out)
    assert found["run"]["steps"] == 50 and found["expected"]["out_of_memory"] is True
    shown = call(*words)
    assert shown.code == 0 and "memory runs out" in shown.out and "distil" in shown.out.lower()
