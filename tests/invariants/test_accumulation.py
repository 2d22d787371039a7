"""One optimizer step is the same step however it is cut: into micro-batches, and over ranks.

The weights before and after one step of plain SGD differ by the rate times the gradient.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.fixtures import Call, Say, Start
from tests.faults.harness import Inputs, Run, assert_identical

ROWS = 8
CUTS = [(8, 1), (4, 2), (2, 4), (1, 8)]
"""(data.batch_size, trainer.accumulate_grad_batches)"""
RANKS = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu"]
LR = 1.0
TOLERANCE = 1e-6
"""Of the gradient's largest entry."""


def words(
    inputs: Inputs, run: Run, batch_size: int, accumulate: int, packing: str, *, lr: float, steps: int
) -> list[str]:
    """A train command of SGD without dropout, decay or clipping."""
    return [
        "train", *inputs.words(), f"run.dir={run.path}", "student.dropout=0", f"data.batch_size={batch_size}",
        "data.max_length=48", f"data.packing={packing}", f"trainer.accumulate_grad_batches={accumulate}",
        f"trainer.max_steps={steps}", "trainer.gradient_clip_val=null", "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=1", "checkpoint.keep_last=100", "scheduler=constant", "scheduler.warmup_steps=0",
        "optimizer._target_=torch.optim.SGD", f"optimizer.lr={lr}", "optimizer.weight_decay=0", "~optimizer.betas",
        "~optimizer.eps", "~optimizer.fused", "+callbacks.progress.seconds_between_lines=0",
    ]  # fmt: skip


def gradient(run: Run, initial: dict[str, torch.Tensor], lr: float) -> torch.Tensor:
    """The first step's gradient of every weight, flat, in float64."""
    stepped = run.state(1)["state_dict"]
    return torch.cat([(initial[name].double() - stepped[name].double()).flatten() / lr for name in initial])


@pytest.fixture(scope="module", params=["full", "none"])
def packing(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def initial(inputs: Inputs, call: Call, tmp_path: Path, packing: str) -> dict[str, torch.Tensor]:
    """The weights before the first step."""
    run = Run(tmp_path / "initial")
    assert call(*words(inputs, run, ROWS, 1, packing, lr=1e-30, steps=1)).code == 0
    return run.state(1)["state_dict"]


@pytest.fixture
def whole(inputs: Inputs, call: Call, tmp_path: Path, packing: str, initial: dict[str, torch.Tensor]) -> torch.Tensor:
    """The gradient of a step in one piece."""
    run = Run(tmp_path / "whole")
    result = call(*words(inputs, run, ROWS, 1, packing, lr=LR, steps=1))
    assert result.code == 0, result.err
    flat = gradient(run, initial, LR)
    assert flat.abs().max() > 0.1
    return flat


def assert_same_gradient(ours: torch.Tensor, whole: torch.Tensor, say: Say, name: str) -> None:
    """Equal within TOLERANCE of the largest entry."""
    error = float((ours - whole).abs().max() / whole.abs().max())
    say(f"{name}: largest difference {error:.1e} of the largest entry")
    assert error <= TOLERANCE


@pytest.mark.parametrize(("batch_size", "accumulate"), CUTS[1:])
def test_gradient_is_the_same_when_the_step_is_cut_into_micro_batches(
    batch_size: int, accumulate: int, inputs: Inputs, call: Call, say: Say, tmp_path: Path, packing: str,
    initial: dict[str, torch.Tensor], whole: torch.Tensor,
) -> None:  # fmt: skip
    run = Run(tmp_path / "cut")
    result = call(*words(inputs, run, batch_size, accumulate, packing, lr=LR, steps=1))
    assert result.code == 0, result.err
    assert_same_gradient(gradient(run, initial, LR), whole, say, f"{batch_size} x {accumulate}")


def test_gradient_is_the_same_when_the_step_is_cut_over_two_ranks(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path, packing: str, initial: dict[str, torch.Tensor],
    whole: torch.Tensor,
) -> None:  # fmt: skip
    run = Run(tmp_path / "ranks")
    process = start(*words(inputs, run, ROWS // 2, 1, packing, lr=LR, steps=1), *RANKS)
    process.wait_until(lambda: run.checkpoint(1).exists())
    process.succeed()
    assert_same_gradient(gradient(run, initial, LR), whole, say, f"2 ranks x {ROWS // 2}")


@pytest.mark.fault
def test_two_ranks_resume_identical_when_the_process_group_is_killed(
    inputs: Inputs, start: Start, say: Say, tmp_path: Path
) -> None:
    finished, run = Run(tmp_path / "finished"), Run(tmp_path / "run")
    options = {"lr": 1e-3, "steps": 6}
    start(*words(inputs, finished, 2, 2, "none", **options), *RANKS).succeed()
    process = start(*words(inputs, run, 2, 2, "none", **options), *RANKS)
    process.wait_until(lambda: bool(run.checkpoints()))
    ranks = [pid for pid in process.children() if "LOCAL_RANK=1" in Path(f"/proc/{pid}/environ").read_text()]
    assert len(ranks) == 1, "no second rank was started"
    process.kill(group=True)
    say(f"both ranks killed with checkpoints {run.checkpoints()}")
    assert not run.events("finish")
    start("resume", str(run.path)).succeed()
    assert run.starts() == [0, run.starts()[1]] and run.starts()[1] > 0
    assert_identical(run, finished)
