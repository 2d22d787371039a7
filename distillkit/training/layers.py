"""Two ways to run an encoder's layers: compiled, and without keeping their activations. The weights know of neither.

Both put a function in the place of `forward` on each layer, so that names of weights, checkpoints and exported folders
stay what they are, and any class of transformers will do. Layers are compiled rather than whole encoders: all layers
of a class share one graph, which takes a fraction of the time and runs as fast, and what stands around them (masks,
the head, `heads.apply_head`) stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from distillkit.encoding import keep_padding
from distillkit.errors import ConfigError

_GRAPHS = 64
"""Graphs of one function that torch may keep; teacher and student, training and validation, with and without padding
make a dozen. Beyond torch's own 8 further ones would run uncompiled."""


def compile_layers(model: PreTrainedModel, *, changing_shapes: bool) -> None:
    """Lets torch compile the layers of an encoder when they first run, forwards and backwards.

    Sums round differently and dropout draws differently than in uncompiled layers, as a function of the same seed.

    Args:
        model: changed in place.
        changing_shapes: rows and lengths differ between batches: one graph for all of them instead of one for each.
            It is not left to torch to find out: which graph a batch takes would depend on the batches before it, and a
            resumed run would not be identical.

    Raises:
        ConfigError: the model keeps its layers in no list.
    """
    torch._dynamo.config.recompile_limit = _GRAPHS
    keep_padding(model)
    for layer in _layers(model, "run.compile"):
        layer.forward = torch.compile(layer.forward, dynamic=changing_shapes)


def recompute_layers(model: PreTrainedModel) -> None:
    """Lets each layer of an encoder keep its inputs alone in training, and compute the rest again in the backward pass.

    The same numbers, dropout included, in less memory and more time. transformers' own switch knows no ALBERT (5.23)
    and hooks the embeddings, also outside training.

    Args:
        model: changed in place; after `compile_layers` if that is wanted too.

    Raises:
        ConfigError: the model keeps its layers in no list.
    """
    for layer in _layers(model, "run.gradient_checkpointing"):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)


def _layers(model: PreTrainedModel, key: str) -> list[nn.Module]:
    layers = list(_items(model.base_model))
    if not layers:
        raise ConfigError(
            f"{type(model).__name__} keeps its layers in no list", key=key, value=True, allowed="false for this model",
            fix=f"set {key}=false",
        )  # fmt: skip
    return layers


def _items(module: nn.Module) -> Iterator[nn.Module]:
    """The items of the outermost lists of modules, each once."""
    for child in module.children():
        if isinstance(module, nn.ModuleList) and not isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _items(child)


def check_compiler(device: torch.device) -> None:
    """Compiles and runs a trifle, so that a missing compiler shows before the models are loaded.

    Args:
        device: that the run computes on.

    Raises:
        ConfigError: with the reason.
    """
    try:
        torch.compile(torch.square)(torch.ones(2, device=device))
    except Exception as error:  # a compiler may be missing, broken or without its headers, each with a class of its own
        reason = " ".join(str(error).partition("\n\n")[0].split()) or type(error).__name__
        raise ConfigError(
            f"torch cannot compile on this machine ({reason})", key="run.compile", value=True, allowed="false here",
            fix="install a C++ compiler such as g++, or set run.compile=false",
        ) from error  # fmt: skip
