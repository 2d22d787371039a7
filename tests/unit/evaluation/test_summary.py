"""Models side by side: on the device that is asked for."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from distillkit import run
from distillkit.evaluation import summary
from distillkit.evaluation.summary import evaluate_side_by_side, move
from distillkit.layout import with_layout
from distillkit.types import Batch, StepTotals
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs, make_bert

FIGURES = {
    "runs/one[v1]": {"unique_parameters": 109514298, "nominal_parameters": 109514298, "mlm_loss": 1.5, "top1": 0.5},
    "runs/two[v2]": {"unique_parameters": 66985530, "nominal_parameters": 66985530, "mlm_loss": 2.25, "top1": 0.25},
}


@pytest.mark.parametrize("width", [140, 60])
def test_table_shows_every_name_and_number_whole_when_the_terminal_is_of_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    monkeypatch.setattr(summary, "results_console", lambda: console)
    summary.print_table(FIGURES)
    shown = console.export_text()
    for expected in ("[v1]", "[v2]", "109,514,298", "66,985,530", "1.500", "2.250", "50.0%", "25.0%"):
        assert expected in shown, shown


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
