"""Fine-tuning one model on one task, and reading its answers: a stock head, one recipe, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Subset
from transformers import AutoConfig, PreTrainedModel
from transformers.trainer_pt_utils import LengthGroupedSampler

from distillkit.attention import use_quick_attention
from distillkit.comparison.tasks.base import Outputs, Task
from distillkit.errors import DataError, NumericalError, TeacherError
from distillkit.sharing import restore_sharing
from distillkit.training.clipping import ClippedModule
from distillkit.training.optim import decay_groups

LABELS = ("labels", "start_positions", "end_positions")
Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
PREDICTED_AT_ONCE = 4
"""Training batches that make one batch of prediction, which keeps no gradients."""


def load_with_head(task: Task, folder: Path, seed: int) -> PreTrainedModel:
    """A model with the task's stock head, its encoder as stored, the head's fresh weights drawn from the seed.

    Args:
        task: gives the class and its labels.
        folder: of any model that transformers has this head for.
        seed: >= 0.

    Returns:
        float32, in eval mode.

    Raises:
        TeacherError: transformers has no such head for it, or encoder weights are missing.
    """
    task.check_model(AutoConfig.from_pretrained(folder, trust_remote_code=False), name=folder.name)
    torch.manual_seed(seed)
    model, info = task.head.from_pretrained(  # type: ignore[attr-defined]
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
        ignore_mismatched_sizes=True, **task.head_config(),
    )  # fmt: skip
    body = f"{model.base_model_prefix}."
    missing = [name for name in info["missing_keys"] if name.startswith(body) and "pooler" not in name]
    if missing:
        raise TeacherError(f"{len(missing)} encoder weights are missing, e.g. {missing[0]}", key="models", value=folder)
    _forget_head(model, body, set(info["missing_keys"]))
    restore_sharing(model)
    return model


def _forget_head(model: PreTrainedModel, body: str, fresh: set[str]) -> None:
    """Draws a head anew that came with the weights: every model starts alike, whatever it was fine-tuned on before."""
    stored = [name for name, _ in model.named_parameters() if not name.startswith(body) and name not in fresh]
    for name in dict.fromkeys(name.rpartition(".")[0] for name in stored):
        module = model.get_submodule(name)
        for weight in module.parameters(recurse=False):
            weight._is_hf_initialized = False  # type: ignore[attr-defined]
        model._init_weights(module)


class FineTuning(ClippedModule):
    """Trains every weight of a model on its own loss; works in any Lightning Trainer.

    Args:
        model: returns a loss for a batch with labels.
        optimizer: called with the parameter groups.
        scheduler: called with (optimizer, total_steps=...).
        on_step: called with (steps done, all steps) now and then.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer],
        scheduler: Callable[..., LRScheduler],
        on_step: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        super().__init__()
        self.model, self.make_optimizer, self.make_scheduler, self.on_step = model, optimizer, scheduler, on_step
        self.register_buffer("finite", torch.tensor(True), persistent=False)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The model's loss, [] float."""
        loss = self.model(**batch).loss
        self.finite &= loss.detach().isfinite()  # read once at the end: a read would wait for the device
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Says how far it is."""
        self.on_step(self.trainer.global_step, int(self.trainer.estimated_stepping_batches))

    def on_train_end(self) -> None:
        """NumericalError when a loss was not finite."""
        if not self.finite:
            raise NumericalError("a fine-tuning loss is not finite", key="optimizer.lr", fix="set a lower one")

    def configure_optimizers(self) -> Any:
        """The optimizer over decay groups, and the schedule over all steps."""
        optimizer = self.make_optimizer(decay_groups(self.model))
        scheduler = self.make_scheduler(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(
    module: FineTuning,
    trainer: pl.Trainer,
    features: datasets.Dataset,
    collate: Collator,
    *,
    batch_size: int,
    seed: int,
) -> None:
    """Fine-tunes in batches of rows of like length; their order and dropout follow from the seed.

    Args:
        module: around the model.
        trainer: with its limits set.
        features: of `Task.encode`, with labels.
        collate: of `Task.collator`.
        batch_size: features of a micro-batch.
        seed: >= 0.

    Raises:
        NumericalError: a loss was not finite.
        DataError: there is no feature.
    """
    if not len(features):
        raise DataError("no feature to train on", key="task.*.files.train", value=None)
    rows = _readable(module.model, features)
    order = torch.Generator().manual_seed(seed)
    sampler = LengthGroupedSampler(batch_size, lengths=lengths_of(rows), generator=order)
    loader = DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]
    use_quick_attention(module.model)
    module.model.train()
    torch.manual_seed(seed)
    trainer.fit(module, loader)


@torch.no_grad()
def predict(
    model: PreTrainedModel,
    features: datasets.Dataset,
    collate: Collator,
    *,
    batch_size: int,
    per_token: bool,
    device: torch.device,
    autocast: bool,
) -> list[Outputs]:
    """The logits of every feature.

    Args:
        model: fine-tuned.
        features, collate: of the task.
        batch_size: of training; PREDICTED_AT_ONCE times as many go through at once.
        per_token: cut the padding off.
        device, autocast: to compute on, under bfloat16.

    Returns:
        One tuple of float32 arrays a feature, in the order of the features.
    """
    model.to(device).eval()  # type: ignore[arg-type]
    rows = _readable(model, features, labels=False)
    lengths = np.asarray(lengths_of(rows))
    longest_first = np.argsort(-lengths, kind="stable")
    loader = DataLoader(
        Subset(rows, longest_first.tolist()), batch_size=PREDICTED_AT_ONCE * batch_size,  # type: ignore[arg-type]
        collate_fn=collate,
    )  # fmt: skip
    found: list[Outputs] = []
    with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
        for batch in loader:
            output = model(**{name: tensor.to(device) for name, tensor in batch.items()})
            logits = [value.float().cpu().numpy() for name, value in output.items() if name.endswith("logits")]
            found += zip(*logits, strict=True)
    ordered: list[Outputs] = [()] * len(found)
    for place, one in zip(longest_first, found, strict=True):
        ordered[place] = tuple(logits[: lengths[place]] for logits in one) if per_token else one
    return ordered


def _readable(model: PreTrainedModel, features: datasets.Dataset, *, labels: bool = True) -> datasets.Dataset:
    """The columns that the model's forward takes: a tokenizer may give token types that it does not."""
    taken = inspect.signature(model.forward).parameters.keys() - (() if labels else LABELS)
    return features.select_columns([name for name in features.column_names if name in taken])


def lengths_of(features: datasets.Dataset) -> list[int]:
    """Tokens of each feature; of one with several texts, all of them.

    Args:
        features: of `Task.encode`.
    """

    def length(ids: Any) -> int:
        return sum(map(length, ids)) if ids and isinstance(ids[0], list) else len(ids)

    return [length(ids) for ids in features["input_ids"]]
