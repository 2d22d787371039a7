"""Models side by side: on the device that is asked for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distillkit import run
from distillkit.evaluation.summary import evaluate_side_by_side, move
from distillkit.layout import with_layout
from distillkit.types import Batch, StepTotals
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs, make_bert


def test_models_are_evaluated_where_asked_when_there_is_a_gpu_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ids = torch.arange(5, 21).view(1, 16)
    batch = Batch(ids, None, ids.clone(), -1, 0, StepTotals(16, 16))
    data: Any = SimpleNamespace(valid_stream=lambda: [batch])
    figures = evaluate_side_by_side({"student": make_bert()}, data, teacher=None, device=torch.device("cpu"))
    assert figures["student"]["mlm_loss"] > 0


def test_run_evaluates_where_it_trained_when_it_ends(
    call: Call, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices, measure = [], evaluate_side_by_side
    monkeypatch.setattr(run, "evaluate_side_by_side", lambda *a, **k: devices.append(k["device"]) or measure(*a, **k))
    words = ["data.max_length=48", "data.batch_size=8", "trainer.max_steps=1", "trainer.accelerator=cpu"]
    assert call("train", *inputs.words(), *words, f"run.dir={tmp_path / 'run'}").code == 0
    assert devices == [torch.device("cpu")]


def test_every_tensor_of_a_batch_is_on_the_device_when_moved() -> None:
    ids = torch.arange(12).reshape(2, 6)
    batch = with_layout(Batch(ids, torch.ones_like(ids), ids, 0, 0, StepTotals(12, 12)))
    moved = move(batch, torch.device("meta"))
    assert moved.layout is not None and batch.layout is not None and moved.layout.lengths == batch.layout.lengths
    tensors = [part for part in (*moved, *moved.layout) if isinstance(part, torch.Tensor)]
    assert len(tensors) == 7 and all(tensor.is_meta for tensor in tensors)
