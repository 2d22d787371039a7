"""What happens around the steps: checkpoints and stopping in time, and the progress a person sees."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distillkit.errors import Preempted
from distillkit.launching import Stop
from distillkit.machine import memory_used
from distillkit.phases import phase
from distillkit.progress import activity, duration, wants_lines
from distillkit.storage import remove_folder
from distillkit.training.checkpointing import checkpoint_name, checkpoint_step, checkpoints
from distillkit.training.module import DistillationModule
from distillkit.types import Batch


class Checkpointer(pl.Callback):
    """Writes a checkpoint every n optimizer steps, at the last step, at each best validation and on SIGTERM.

    A due checkpoint is written before the next micro-batch, after the validation of the same step if there is one,
    so that a resumed run neither repeats nor misses that validation.

    Args:
        folder: the run's checkpoints.
        every_n_steps: optimizer steps.
        keep_last: how many of the newest to keep; the best is kept besides.
        monitor: held-out metric, lower is better.
        on_event: called with ("checkpoint", step=..., ...) after each write.
        stop: asks to stop as well, where the signals are not this run's alone; None: the signals do.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_n_steps: int = 100,
        keep_last: int = 2,
        monitor: str = "valid/loss",
        on_event: Callable[..., None] = lambda *args, **kwargs: None,
        stop: Stop | None = None,
    ) -> None:
        self.stop = stop or Stop()
        self.folder, self.every_n_steps, self.keep_last = Path(folder), every_n_steps, keep_last
        self.monitor, self.on_event = monitor, on_event
        self.best: dict[str, float] | None = None
        self._due = self._stopping = False
        self._saved_step = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far: step and value."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores `state_dict`."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes SIGTERM and SIGINT over: Lightning's own handling stops in the middle of an accumulation."""
        assert isinstance(pl_module, DistillationModule)
        self._saved_step = pl_module.resumed_step
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        if self.stop.asked and number == signal.SIGINT:  # the second Ctrl-C means now
            raise KeyboardInterrupt
        self.stop.asked = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Notes whether this optimizer step is to be saved."""
        if batch.micro == trainer.accumulate_grad_batches - 1:
            # ranks stop together: one may have been asked a step earlier than another
            self._stopping = trainer.strategy.reduce_boolean_decision(self.stop.asked, all=False)
            step = trainer.global_step
            self._due = self._stopping or step % self.every_n_steps == 0 or step == trainer.max_steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Writes what is due from the step before."""
        self._write_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes a best validation and writes what is due."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and (self.best is None or float(value) < self.best["value"]):
            self.best = {"step": trainer.global_step, "value": float(value)}
            self._due = True
        self._write_if_due(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the last checkpoint, also when something else than max_steps ended the training."""
        self._due |= trainer.global_step != self._saved_step
        self._write_if_due(trainer, pl_module)

    def _write_if_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._due:
            return
        self._due = False
        assert isinstance(pl_module, DistillationModule)
        pl_module.watch.check()
        step = trainer.global_step
        with phase("checkpoint"):
            trainer.save_checkpoint(self.folder / checkpoint_name(step))
        self._saved_step = step
        if trainer.is_global_zero:
            self.on_event("checkpoint", step=step, **memory_used(trainer.strategy.root_device))
            self._prune()
        if self._stopping:
            raise Preempted(
                f"stopped after step {step} and saved", fix=f"continue with: distillkit resume {self.folder.parent}"
            )

    def _prune(self) -> None:
        best = self.best["step"] if self.best else None
        saved = checkpoints(self.folder)
        for path in saved[: -self.keep_last] if self.keep_last > 0 else []:
            if checkpoint_step(path) != best:
                remove_folder(path)


class ProgressReport(pl.Callback):
    """A bar on a terminal, a line now and then elsewhere: steps, tokens/s, each raw term, time left.

    With --verbose the lines come at even times, also while a step takes longer (`progress.activity`).

    Args:
        seconds_between_lines: at most, where stderr is not a terminal and a step is shorter than that.
    """

    def __init__(self, seconds_between_lines: float = 2.5) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.console = Console(stderr=True)
        self._bar: Progress | None = None
        self._verbose = contextlib.ExitStack()
        self._beat: Callable[[str], None] | None = None
        self._task = TaskID(0)
        self._last_line = self._last_batch = self._started = 0.0
        self._first_step = self._shown_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar. The Trainer itself is told only after its callbacks how far a resumed run is."""
        step = getattr(pl_module, "resumed_step", 0)
        self._started, self._first_step = time.perf_counter(), step
        if trainer.is_global_zero and self.console.is_terminal:
            columns = ("step", BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
            self._bar = Progress(*columns, TextColumn("{task.fields[figures]}"), console=self.console)
            self._bar.start()
            self._task = self._bar.add_task("train", total=trainer.max_steps, completed=step, figures="")
        elif trainer.is_global_zero and wants_lines():
            self._beat = self._verbose.enter_context(activity(f"step {step}/{trainer.max_steps}"))
        if trainer.is_global_zero and getattr(pl_module, "compiled", False):
            self._doing(step, trainer, "compiling the layers")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Moves the bar, or prints a line when it is time."""
        if not trainer.is_global_zero:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, figures=figures(pl_module))
        elif self._is_time():
            self._step_line(trainer, pl_module)

    def _is_time(self) -> bool:
        """Whether to print a line now, because after one more batch like the last it would be late."""
        if self._beat is not None:
            return True
        now = time.perf_counter()
        taken, self._last_batch = now - self._last_batch, now
        return now + taken - self._last_line > self.seconds_between_lines

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Says that validation is going on."""
        if trainer.is_global_zero and (self._bar is not None or self._is_time()):
            self._doing(trainer.global_step, trainer, "validating")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line of held-out figures."""
        if trainer.is_global_zero and trainer.state.fn == "fit":
            found = {k.removeprefix("valid/"): float(v) for k, v in trainer.callback_metrics.items() if "valid/" in k}
            self._say(f"step {trainer.global_step}: held-out " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar, or prints a last line."""
        unsaid = self._bar is None and (self._beat is not None or trainer.global_step != self._shown_step)
        self._close()
        if unsaid and trainer.is_global_zero:
            self._step_line(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._verbose.close()
        self._beat = None

    def _step_line(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._shown_step = trainer.global_step
        done = trainer.global_step - self._first_step
        left = (time.perf_counter() - self._started) / max(done, 1) * (trainer.max_steps - trainer.global_step)
        self._line(f"step {trainer.global_step}/{trainer.max_steps}  {duration(left)} left  {figures(pl_module)}")

    def _doing(self, step: int, trainer: pl.Trainer, what: str) -> None:
        """Says what takes its time after a step."""
        if self._bar is not None:
            self._bar.update(self._task, figures=what)
        else:
            self._line(f"step {step}/{trainer.max_steps}  {what}")

    def _line(self, text: str) -> None:
        """A line, or what the next of the even lines says."""
        if self._beat is not None:
            self._beat(text)
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        self._last_line = time.perf_counter()
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def figures(module: pl.LightningModule) -> str:
    """The newest logged figures of a DistillationModule in one short line; empty before the first."""
    latest: dict[str, float] = getattr(module, "latest", {})
    shown = [f"{name.removeprefix('train/')} {value:.3f}" for name, value in latest.items() if "train/" in name]
    speed, share = latest.get("speed/tokens_per_second"), latest.get("speed/mfu")
    pace = [f"{speed:,.0f} tokens/s"] if speed else []
    return "  ".join(pace + ([f"{share:.0%} of the roof"] if share else []) + shown)
