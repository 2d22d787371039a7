"""Between two logging steps nothing reads a number off the device, which would wait for all that is under way there.

Seen on the CPU, where nothing waits: by the operations whose result depends on values, and by who calls them.
"""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from distillkit import objective
from distillkit.layout import with_layout
from distillkit.teachers import Teacher
from distillkit.training import optim
from distillkit.training.module import DistillationModule
from distillkit.types import Batch
from tests.parity.models import make_batch, tiny_model

LOG_STEP = 4
ACCUMULATE = 2
ATEN = torch.ops.aten
READS = {ATEN._local_scalar_dense.default, ATEN.nonzero.default, ATEN.masked_select.default, ATEN.equal.default}
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default}
ON_THE_CPU = {
    "distillkit.losses._is_plain: _local_scalar_dense",  # which formula serves
    "distillkit.chunks.backward: _local_scalar_dense",  # whether there is anything to multiply by
    "distillkit.attention.products.attend: _local_scalar_dense",  # the seed of the dropout
}
"""Who reads a number where that costs nothing; each asks for the device first, and nobody is to be added."""


class Watch(TorchDispatchMode):
    """Notes the innermost function outside torch of every read of a value."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if func in READS or by_mask:
            self.note(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def note(self, what: str) -> None:
        frames = [frame for frame, _ in traceback.walk_stack(None)]
        names = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames]
        place = next(name for name in names if not name[0].startswith(("torch.", __name__)) and name[0] != "torch")
        self.found.add(f"{'.'.join(place)}: {what}")


class Between(pl.Callback):
    """Watches the micro-batches of every step but the first and those that log."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.steps = watch, set[int]()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if batch.step % LOG_STEP not in (0, LOG_STEP - 1):
            self.steps.add(batch.step)
            self.watch.__enter__()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *more: Any) -> None:
        if batch.step % LOG_STEP not in (0, LOG_STEP - 1):
            self.watch.__exit__(None, None, None)


def batches(packed: bool) -> Iterator[Batch]:
    """A logging window's micro-batches."""
    whole = with_layout(make_batch(packed=packed))
    for number in range(LOG_STEP * ACCUMULATE):
        yield whole._replace(step=number // ACCUMULATE, micro=number % ACCUMULATE)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Also told of reads that torch does not dispatch on the CPU, and of print."""
    watch, on = Watch(), torch.utils._python_dispatch._get_current_dispatch_mode

    def told(name: str, original: Any) -> Any:
        def method(*args: Any, **kwargs: Any) -> Any:
            if on() is not None:
                watch.note(name)
            return original(*args, **kwargs)

        return method

    for name in ("tolist", "numpy"):
        monkeypatch.setattr(Tensor, name, told(name, getattr(Tensor, name)))
    monkeypatch.setattr(builtins, "print", told("print", print))
    return watch


@pytest.mark.parametrize("positions", ["all", "predicted"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_step_reads_nothing_off_the_device_when_it_does_not_log(
    packed: bool, positions: str, watch: Watch, tmp_path: Path
) -> None:
    ce = objective.SoftTargetTerm(5.0, positions=positions)
    terms = {"ce": ce, "mlm": objective.MaskedLMTerm(2.0), "cos": objective.HiddenCosineTerm()}
    student, teacher = tiny_model("distilbert", seed=1, attention="sdpa"), Teacher(tiny_model(attention="sdpa"))
    module = DistillationModule(
        student, objective.Objective(terms), teacher=teacher,
        optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True),
        scheduler=partial(optim.schedule, name="linear", warmup_steps=0.1),
    )  # fmt: skip
    between = Between(watch)
    trainer = pl.Trainer(
        max_steps=LOG_STEP, accelerator="cpu", accumulate_grad_batches=ACCUMULATE, log_every_n_steps=LOG_STEP,
        gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[between], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(list(batches(packed)), batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == LOG_STEP and between.steps == {1, 2}
    assert watch.found <= ON_THE_CPU, watch.found - ON_THE_CPU
