"""Optimizer groups and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def lamb(
    groups: list[dict[str, Any]], *, lr: float, betas: Sequence[float], eps: float, weight_decay: float
) -> Optimizer:
    """LAMB as ALBERT's own code computes it: w -= lr * |w| / |u| * u, where u = m / (sqrt(v) + eps) + weight_decay * w.

    m and v are running means of gradient and squared gradient, without bias correction. |w| / |u|, one number a weight
    tensor, is the trust ratio; it is 1 where either norm is 0.

    Args:
        groups: of parameters; one whose own weight_decay is 0 (`decay_groups`) takes no trust ratio either.
        lr: of all groups.
        betas: decay of the two running means.
        eps: added to the denominator; the library adds it to |u| as well, which changes nothing that can be measured.
        weight_decay: of the other groups.

    Returns:
        An optimizer whose state is plain tensors and numbers.

    Source: You et al. 2020 (arXiv 1904.00962), algorithm 2; lamb_optimizer.py of google-research/albert, which excludes
    LayerNorm and bias from decay and trust ratio.
    """
    from pytorch_optimizer import Lamb  # late: it takes seconds, and most runs do without

    own = [group | {"adam": group.get("weight_decay") == 0.0} for group in groups]
    optimizer = Lamb(
        own, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay,
        weight_decouple=False,  # decay is part of u, and so of the trust ratio
        adam_debias=True,  # or else it divides the step by 1 - beta1^t, ten times too long a first step
    )  # fmt: skip
    optimizer.clamp = math.inf  # its own bound is |w| <= 10; ALBERT's embeddings begin at 39
    return optimizer


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

    Source: Devlin et al. 2018 (linear); DistilBERT's script (linear, 5% warm-up). The code of BERT and ALBERT counts
    the decay from step 0: after the warm-up the rate is peak * (1 - step / total), in ALBERT's recipe from 0.975 of the
    peak on. Here the fall to 0 begins at the peak, where the warm-up ends.
    """
    if warmup_steps < 0:
        raise ConfigError("must not be negative", key="scheduler.warmup_steps", value=warmup_steps, allowed=">= 0")
    steps = min(total_steps, int(warmup_steps) if warmup_steps >= 1 else round(warmup_steps * total_steps))
    return get_scheduler(name, optimizer, num_warmup_steps=steps, num_training_steps=total_steps)
