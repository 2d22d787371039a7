"""Optimizer groups and learning-rate schedules."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from distillkit.errors import ConfigError


def decay_groups(*modules: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for matrices, none for biases and normalisation weights.

    Args:
        modules: their trainable parameters, each distinct one once however often it is shared.

    Returns:
        Two groups; the second has weight_decay 0. Weight matrices and embeddings have two dimensions, biases and the
        gains of LayerNorm or RMSNorm one.

    Source: Devlin et al. 2018, appendix A.2 and its code (LayerNorm and bias are excluded).
    """
    trainable = list({id(p): p for m in modules for p in m.parameters() if p.requires_grad}.values())
    return [
        {"params": [p for p in trainable if p.dim() > 1]},
        {"params": [p for p in trainable if p.dim() <= 1], "weight_decay": 0.0},
    ]


def schedule(optimizer: Optimizer, *, name: str, warmup_steps: float, total_steps: int) -> LRScheduler:
    """A learning-rate schedule with linear warm-up, stepped once per optimizer step.

    Args:
        optimizer: its lr is the peak.
        name: "linear", "cosine", "constant_with_warmup" or any other of transformers.get_scheduler's.
        warmup_steps: steps, or a share of total_steps when below 1; at most total_steps.
        total_steps: optimizer steps of the whole run.

    Returns:
        The scheduler at step 0.

    Raises:
        ConfigError: warmup_steps is negative.

    Source: Devlin et al. 2018 (linear); DistilBERT's script (linear, 5% warm-up).
    """
    if warmup_steps < 0:
        raise ConfigError("must not be negative", key="scheduler.warmup_steps", value=warmup_steps, allowed=">= 0")
    steps = min(total_steps, int(warmup_steps) if warmup_steps >= 1 else round(warmup_steps * total_steps))
    return get_scheduler(name, optimizer, num_warmup_steps=steps, num_training_steps=total_steps)
