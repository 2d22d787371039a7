"""The peers that are packages of their own, used as their users use them: transformers' Trainer, and TextBrewer."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import tempfile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from distillkit.types import Batch
from scripts.benchmarking.contenders import BETAS, EPSILON, LR, WEIGHTS, Contender
from scripts.benchmarking.shapes import Models
from tests.parity.reference import last_hidden_cosine, softened_kl

_CLIP = 1.0
KD_WEIGHT = WEIGHTS.ce * WEIGHTS.temperature**2  # TextBrewer does not scale by the temperature itself
CROSS_ENTROPY = f"{KD_WEIGHT:g} x cross-entropy instead of KL, larger by the teacher's entropy"


def missing(*packages: str) -> tuple[str, ...]:
    """Those that cannot be imported."""
    return tuple(name for name in packages if importlib.util.find_spec(name) is None)


def as_inputs(batch: Batch) -> dict[str, Tensor]:
    """The batch as a data collator of transformers makes it: always with an attention mask."""
    attended = torch.ones_like(batch.input_ids) if batch.attention_mask is None else batch.attention_mask
    return {"input_ids": batch.input_ids, "attention_mask": attended, "labels": batch.labels}


class DistillationTrainer(Trainer):
    """The subclass that most people write: compute_loss overridden, the full logits of both models."""

    def __init__(self, *args: Any, teacher: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = teacher

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        student = model(**inputs, output_hidden_states=True)
        without = {name: value for name, value in inputs.items() if name != "labels"}
        # not self.accelerator.autocast(), which follows the precision of whichever Trainer was made last
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16):
            teacher = self.teacher(**without, output_hidden_states=True)
        attended = inputs["attention_mask"].bool()
        ce = softened_kl(student.logits[attended], teacher.logits[attended].float(), WEIGHTS.temperature)
        states = (output.hidden_states[-1][attended].float() for output in (student, teacher))
        loss = WEIGHTS.ce * ce + WEIGHTS.mlm * student.loss + WEIGHTS.cos * last_hidden_cosine(*states)
        return (loss, student) if return_outputs else loss


class TrainerSubclass(Contender):
    """A step of transformers' Trainer: its training_step, clipping and default optimizer, prepared by accelerate."""

    def __init__(self, models: Models, *, precision: str) -> None:
        folder = tempfile.mkdtemp()
        options = TrainingArguments(
            output_dir=folder, bf16=precision == "bf16", use_cpu=True, report_to="none", max_grad_norm=_CLIP,
            learning_rate=LR, adam_beta1=BETAS[0], adam_beta2=BETAS[1], adam_epsilon=EPSILON, disable_tqdm=True,
            save_strategy="no",
        )  # fmt: skip
        self.trainer = DistillationTrainer(models.student, options, teacher=models.teacher)
        self.trainer.current_gradient_accumulation_steps = 1
        self.trainer.create_optimizer()
        prepared = self.trainer.accelerator.prepare(self.trainer.model, self.trainer.optimizer)
        self.model, self.trainer.optimizer = prepared
        os.rmdir(folder)

    def loss(self, batch: Batch) -> Tensor:
        return self.trainer.compute_loss(self.model, as_inputs(batch))

    def step(self, batch: Batch) -> None:
        self.trainer.training_step(self.model, as_inputs(batch))
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.trainer.optimizer.step()
        self.model.zero_grad()


class TextBrewer(Contender):
    """A step of TextBrewer's GeneralDistiller, through its own train(), over an epoch of one batch.

    The teacher gets no labels, which spares it a loss. Checkpoints and TensorBoard are off.
    """

    def __init__(self, models: Models) -> None:
        textbrewer = importlib.import_module("textbrewer")
        cosine = {"layer_T": 0, "layer_S": 0, "feature": "hidden", "loss": "cos", "weight": WEIGHTS.cos}
        with tempfile.TemporaryDirectory() as folder:
            train = textbrewer.TrainingConfig(device="cpu", ckpt_frequency=0, log_dir=None, output_dir=folder)
        distill = textbrewer.DistillationConfig(
            temperature=WEIGHTS.temperature, kd_loss_type="ce", kd_loss_weight=KD_WEIGHT,
            hard_label_weight=WEIGHTS.mlm, intermediate_matches=[cosine],
        )  # fmt: skip
        self.distiller = textbrewer.GeneralDistiller(train, distill, models.teacher, models.student, _adapt, _adapt)
        self.optimizer = torch.optim.AdamW(models.student.parameters(), lr=LR, betas=BETAS, eps=EPSILON)

    def loss(self, batch: Batch) -> Tensor:
        return self.distiller.train_on_batch(_for_both(batch), {"output_hidden_states": True})[0]

    def step(self, batch: Batch) -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # its bar
            self.distiller.train(
                self.optimizer, [_for_both(batch)], num_epochs=1, max_grad_norm=_CLIP, output_hidden_states=True
            )


def _for_both(batch: Batch) -> dict[str, dict[str, Tensor]]:
    inputs = as_inputs(batch)
    return {"student": inputs, "teacher": {name: value for name, value in inputs.items() if name != "labels"}}


def _adapt(batch: dict[str, Tensor], output: Any) -> dict[str, Any]:
    """What TextBrewer is to compare, from a model's inputs and outputs."""
    attended = batch["attention_mask"]
    found = {"logits": output.logits, "logits_mask": attended, "hidden": output.hidden_states[-1:]}
    return found | {"inputs_mask": attended} | ({} if output.loss is None else {"losses": output.loss})


def entropy(teacher: PreTrainedModel, batch: Batch) -> float:
    """The teacher's mean entropy over attended positions, at the temperature, in nats: cross-entropy minus KL."""
    inputs = as_inputs(batch)
    attended = inputs.pop("attention_mask")
    with torch.no_grad():
        logits = teacher(input_ids=inputs["input_ids"], attention_mask=attended).logits[attended.bool()]
        log_p = nn.functional.log_softmax(logits / WEIGHTS.temperature, dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())
