"""What is measured: our step, and the steps it is measured against, each on models of its own."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel

from distillkit.objective import HiddenCosineTerm, HiddenSource, MaskedLMTerm, Objective, SoftTargetTerm
from distillkit.teachers import Teacher
from distillkit.training.module import DistillationModule
from distillkit.types import Batch
from scripts.benchmarking.shapes import Models
from tests.parity.reference import Weights, distilbert_losses

WEIGHTS = Weights()
LR, BETAS, EPSILON = 5e-4, (0.9, 0.98), 1e-6  # the original's
OURS_CLIP, ORIGINAL_CLIP = 1.0, 5.0


class Contender(ABC):
    """A way to take a training step. Batches are optimizer steps of their own."""

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The batch's loss [], differentiable."""

    @abstractmethod
    def step(self, batch: Batch) -> None:
        """One optimizer step, from the batch to the new weights."""


class Recipe(NamedTuple):
    """A contender before it is built.

    Attributes:
        title: in tables.
        precision: "fp32" or "bf16".
        positions: that carry the soft targets' loss, "all" or "predicted".
        build: makes it.
        definition: of its loss, where it is not the original's.
        missing: the packages it needs and that cannot be imported.
    """

    title: str
    precision: str
    positions: str
    build: Callable[[Models], Contender]
    definition: str = ""
    missing: tuple[str, ...] = ()


class Ours(Contender):
    """The step of a DistillationModule as Lightning's Trainer takes it, without the Trainer's loop."""

    def __init__(self, module: DistillationModule, precision: str) -> None:
        self.module, self.optimizer, self.trainer = ready(module, precision)

    def loss(self, batch: Batch) -> Tensor:
        with self.trainer.precision_plugin.train_step_context():
            return self.module.training_step(batch, 0)

    def step(self, batch: Batch) -> None:
        self.loss(batch).backward()
        self.module.configure_gradient_clipping(self.optimizer, OURS_CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


def ready(module: DistillationModule, precision: str) -> tuple[DistillationModule, torch.optim.Optimizer, pl.Trainer]:
    """The module as it stands when Lightning's Trainer asks for its first step: attached, hooks called, in train mode.

    Args:
        module: not attached yet.
        precision: as trainer.precision.

    Returns:
        The module, its optimizer, and the Trainer that knows the precision.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # what devices there are, once a contender
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, precision=precision, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module.trainer = trainer
    module.make_scheduler = None  # the rate is of no matter here
    optimizer = module.configure_optimizers()
    module.train()
    module.on_fit_start()
    return module, optimizer, trainer


def ours(models: Models, *, precision: str, positions: str, teacher: HiddenSource | None = None) -> Ours:
    """Our step with the defaults of conf/, the teacher in the same precision or as it is given."""
    terms = {
        "ce": SoftTargetTerm(WEIGHTS.ce, WEIGHTS.temperature, positions),
        "mlm": MaskedLMTerm(WEIGHTS.mlm),
        "cos": HiddenCosineTerm(WEIGHTS.cos),
    }
    module = DistillationModule(
        models.student,
        Objective(terms, student_width=_width(models.student), teacher_width=_width(models.teacher)),
        teacher=teacher or Teacher(models.teacher, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]),
        optimizer=partial(torch.optim.AdamW, lr=LR, betas=BETAS, eps=EPSILON, weight_decay=0.01, fused=True),
    )
    return Ours(module, {"fp32": "32-true", "bf16": "bf16-mixed"}[precision])


def _width(model: PreTrainedModel) -> int:
    return int(model.config.hidden_size)


class Original(Contender):
    """The step of DistilBERT's own trainer, from its transcription; with the figures it reads in every step."""

    def __init__(self, models: Models, *, positions: str) -> None:
        self.models, self.restrict = models, positions == "predicted"
        self.optimizer = torch.optim.AdamW(models.student.parameters(), lr=LR, betas=BETAS, eps=EPSILON, weight_decay=0)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        return distilbert_losses(
            self.models.student, self.models.teacher, batch.input_ids, batch.attention_mask, batch.labels,
            weights=WEIGHTS, restrict_ce_to_mask=self.restrict,
        )  # fmt: skip

    def loss(self, batch: Batch) -> Tensor:
        return self._losses(batch)["total"]

    def step(self, batch: Batch) -> None:
        losses = self._losses(batch)
        self.logged = [loss.item() for loss in losses.values()]
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(self.models.student.parameters(), ORIGINAL_CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
