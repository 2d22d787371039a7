"""The Lightning module: teacher and student around one objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel

from distillkit.data.plan import lesser_bound
from distillkit.evaluation.intrinsic import intrinsic_terms
from distillkit.meters import TermMeter
from distillkit.objective import HiddenSource, Objective
from distillkit.phases import phase
from distillkit.training.clipping import ClippedModule
from distillkit.training.numerics import FiniteWatch
from distillkit.training.optim import decay_groups
from distillkit.training.speed import SpeedGauge, step_flops
from distillkit.types import Batch


def validation_interval(interval: int | float, every_n_epoch: int | None, batches: int, accumulate: int) -> int:
    """Micro-batches between two validations, which come after whole optimizer steps.

    Args:
        interval: trainer.val_check_interval, micro-batches (an int) or a share of an epoch (a float).
        every_n_epoch: trainer.check_val_every_n_epoch; a share is of that many epochs.
        batches: micro-batches of an epoch.
        accumulate: micro-batches of an optimizer step.
    """
    if isinstance(interval, float):
        interval = int(interval * batches) * (every_n_epoch or 1)
    return max(1, math.ceil(interval / accumulate)) * accumulate


class DistillationModule(ClippedModule):
    """Trains the student (and the objective's projection); works in any Lightning Trainer.

    The teacher is no submodule: it reaches neither the optimizer nor the checkpoint nor DDP. Dropout draws are a
    function of (seed, step, rank, micro-batch), so a resumed run repeats them; the global torch generator is re-seeded
    at each micro-batch for that.

    Args:
        student: a masked-LM model.
        objective: the weighted terms.
        teacher: needed when a term compares with one; also used by the held-out metrics.
        optimizer: called with the parameter groups.
        scheduler: called with (optimizer, total_steps=...), or None for a constant rate.
        seed: of the dropout draws.
        compiled: the first steps compile layers (`layers.compile_layers`), which is said while it takes its time.
        roof: FLOP/s of one device at best (`roof.probe_roof`), which speed/mfu is a share of; None leaves it out.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        *,
        teacher: HiddenSource | None = None,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] = torch.optim.AdamW,
        scheduler: Callable[..., LRScheduler] | None = None,
        seed: int = 0,
        compiled: bool = False,
        roof: float | None = None,
    ) -> None:
        super().__init__()
        self.compiled = compiled
        self.student, self.objective, self.teacher = student, objective, teacher
        self.make_optimizer, self.make_scheduler, self.seed = optimizer, scheduler, seed
        self.watch = FiniteWatch(list(objective.terms))
        self.meter = TermMeter(list(objective.terms))
        self.valid_terms = {f"objective/{name}": term for name, term in objective.terms.items()} | intrinsic_terms(
            teacher is not None, any(term.on == "order" for term in objective.terms.values())
        )
        self.valid_meter = TermMeter(list(self.valid_terms))
        self.resumed_step = 0
        self.roof = roof
        self.gauge: SpeedGauge | None = None
        self.latest: dict[str, float] = {}

    # --- data order and resume -------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Makes Lightning see the whole run as one epoch, which is how the data module serves it.

        max_epochs and a fractional val_check_interval mean epochs of the corpus: both are turned into numbers of
        steps here. Validation comes after whole optimizer steps.
        """
        plan = getattr(getattr(self.trainer, "datamodule", None), "plan", None)
        if stage != "fit" or plan is None:
            return
        trainer, accumulate = self.trainer, self.trainer.accumulate_grad_batches
        epoch = plan(trainer.world_size, accumulate)
        steps = lesser_bound(trainer.max_steps, trainer.max_epochs, epoch.steps_per_epoch)
        trainer.fit_loop.epoch_loop.max_steps = -1 if steps is None else steps
        trainer.fit_loop.max_epochs = -1
        trainer.val_check_interval = validation_interval(
            trainer.val_check_interval, trainer.check_val_every_n_epoch, epoch.batches_per_epoch, accumulate
        )
        trainer.check_val_every_n_epoch = None

    def on_fit_start(self) -> None:
        """Moves the teacher beside the student."""
        self._teacher_here()

    def on_validation_start(self) -> None:
        """Moves the teacher beside the student."""
        self._teacher_here()

    def _teacher_here(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the open logging window; Lightning's loop state is left out, see `on_load_checkpoint`."""
        checkpoint.pop("loops", None)
        checkpoint["meter"] = self._reduced(self.meter.sums)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues at the checkpoint's optimizer step.

        Everything random follows from the step, and the data module serves the rest of training as one stream, so
        the step is all the loop state there is. Lightning's own would replay epochs (its issue 21938).
        """
        checkpoint.pop("loops", None)
        self.resumed_step = checkpoint["global_step"]
        if self.global_rank == 0:  # the saved window is already the sum over ranks
            self.meter.sums = checkpoint["meter"]
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None:
            datamodule.start_step = self.resumed_step

    def on_train_start(self) -> None:
        """Tells the Trainer how far a resumed run is, so that max_steps, logs and validation go on counting.

        Measuring begins here, so that a resumed run's first window holds its own steps alone.
        """
        loop, step = self.trainer.fit_loop.epoch_loop, self.resumed_step
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
        loop.batch_progress.total.ready = step * self.trainer.accumulate_grad_batches
        loop._batches_that_stepped = step
        flops = step_flops(self.student, self.teacher, self.objective)
        rows = getattr(self.teacher, "row_counts", None)
        self.gauge = SpeedGauge(self.device, flops=flops, roof=self.roof, ranks=self.trainer.world_size, rows=rows)

    def on_train_end(self) -> None:
        """Measures no more."""
        assert self.gauge is not None
        self.gauge.stop()
        self.gauge = None

    # --- training --------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss [] whose gradients Lightning's averaging over micro-batches and ranks turns into the step's sum."""
        words = np.random.SeedSequence([self.seed, batch.step, self.global_rank, batch.micro]).generate_state(2)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        with phase("loss"):  # of it the objective takes out what teacher and student do
            output = self.objective(self.student, self.teacher, batch)
            self.meter.update(output.sums)
            self.watch.note_terms(output.sums, batch.step)
        if self.gauge is not None and batch.micro == 0:
            self.gauge.note(batch)
        return output.loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's backward pass."""
        with phase("backward"):
            super().backward(loss, *args, **kwargs)

    def on_clipped(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Gates a non-finite update."""
        self.watch.guard_update(optimizer, norm, self.trainer.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, then logs the window's raw terms if this step is a logging step."""
        with phase("optimizer"):  # Lightning calls forward and backward in here: phases of their own
            super().optimizer_step(*args, **kwargs)
        step = self.trainer.global_step + 1  # Lightning counts the step after this hook
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.watch.check()
            self._log_window(step)

    def _log_window(self, step: int) -> None:
        means = self.meter.means(self._reduced)
        self.meter.reset()
        assert self.gauge is not None
        self.latest = {f"train/{name}": value for name, value in means.items()}
        self.latest["train/loss"] = self._weighted(means)
        self.latest |= {f"speed/{name}": value for name, value in self.gauge.window().items()}
        self.latest["lr"] = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
        self.log_dict(self.latest | {"step": float(step)}, batch_size=1)

    # --- validation ------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Starts the held-out sums anew; validation is no part of a step's time."""
        self.valid_meter.reset()
        if self.gauge is not None:
            self.gauge.pause()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds one held-out micro-batch."""
        self.valid_meter.update(self.objective.evaluate(self.student, self.teacher, batch, self.valid_terms).sums)

    def on_validation_epoch_end(self) -> None:
        """Logs the objective's value and the intrinsic metrics as valid/*."""
        means = self.valid_meter.means(self._reduced)
        raw = {name.removeprefix("objective/"): v for name, v in means.items() if name.startswith("objective/")}
        metrics = {"valid/loss": self._weighted(raw)}
        metrics |= {f"valid/{name}": v for name, v in means.items() if not name.startswith("objective/")}
        self.log_dict(metrics | {"step": float(self.trainer.global_step)}, batch_size=1)
        if self.gauge is not None:
            self.gauge.go_on()

    # --- optimization ----------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimizer over decay groups, and the schedule over the whole run's optimizer steps."""
        optimizer = self.make_optimizer(decay_groups(self.student, self.objective))
        if self.make_scheduler is None:
            return optimizer
        total_steps = int(self.trainer.estimated_stepping_batches)
        scheduler = self.make_scheduler(optimizer, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _weighted(self, means: dict[str, float]) -> float:
        return sum(term.weight * means[name] for name, term in self.objective.terms.items() if name in means)

    def _reduced(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
