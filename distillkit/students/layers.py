"""Which layers of a source a student takes, and where a model keeps them."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from distillkit.errors import ConfigError

DROPOUT_KEYS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
"""How the configs of transformers spell hidden and attention dropout."""


def choose_layers(total: int, num_layers: int | None, layers: list[int] | None) -> list[int]:
    """The source layers that become the student's, in order.

    Args:
        total: layers of the source.
        num_layers: layers of the student; None: as many as `layers`, else half of the source's, rounded up.
        layers: the source layers by hand; None: spread evenly, round(linspace(0, total - 1, num_layers)).

    Returns:
        list[int]: distinct, ascending, in 0..total-1.

    Raises:
        ConfigError: a number or a layer is out of range, or the two disagree.

    Source: with 12 layers to 6 the spread is DistilBERT's published [0, 2, 4, 7, 9, 11].
    """
    if num_layers is not None and not 1 <= num_layers <= total:
        raise ConfigError(
            f"the source model has {total} layers", key="student.num_layers", value=num_layers, allowed=f"1..{total}"
        )
    if layers is None:
        count = num_layers or (total + 1) // 2
        return [round(index * (total - 1) / max(count - 1, 1)) for index in range(count)]
    check_layers(total, layers)
    if num_layers not in (None, len(layers)):
        raise ConfigError(
            f"{len(layers)} layers are listed, but student.num_layers={num_layers}",
            key="student.layers",
            value=layers,
            fix="give one of the two",
        )
    return list(layers)


def check_layers(total: int, layers: list[int]) -> None:
    """Refuses a list of source layers that is empty, unordered, repeats one or leaves 0..total-1.

    Raises:
        ConfigError: naming student.layers.
    """
    ascending = all(low < high for low, high in itertools.pairwise(layers))
    if not layers or not ascending or layers[0] < 0 or layers[-1] >= total:
        raise ConfigError(
            f"not a choice of layers of a source model with {total}",
            key="student.layers",
            value=layers,
            allowed=f"distinct ascending numbers in 0..{total - 1}",
        )


def find_layers(model: PreTrainedModel) -> str:
    """The path of the ModuleList that holds the model's layers, e.g. "bert.encoder.layer".

    Raises:
        ConfigError: there is none with one entry per layer, or the model is an ALBERT, whose layers share.
    """
    for path, module in model.named_modules() if model.config.model_type != "albert" else ():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return path
    raise ConfigError(
        f"a {model.config.model_type} model does not keep one block per layer, so none can be left out",
        key="student",
        value="shallow",
        fix="use student=pretrained or student=albert",
    )


def copy_config(source: PreTrainedModel, dropout: float | None) -> PreTrainedConfig:
    """A float32 copy of the source's config, with every hidden and attention dropout set unless `dropout` is None.

    Raises:
        ConfigError: the dropout is out of range.
    """
    config = copy.deepcopy(source.config)
    check_dropout(dropout)
    config.dtype = torch.float32
    if dropout is not None:
        for key in DROPOUT_KEYS:
            if hasattr(config, key):
                setattr(config, key, dropout)
    return config


def check_dropout(dropout: float | None) -> None:
    """Refuses a dropout outside [0, 1).

    Raises:
        ConfigError: naming student.dropout.
    """
    if dropout is not None and not 0 <= dropout < 1:
        raise ConfigError("not a probability of dropping", key="student.dropout", value=dropout, allowed="0 <= p < 1")


def check_init(init: str) -> None:
    """Refuses a start that is neither the teacher's layers nor random.

    Raises:
        ConfigError: naming student.init.
    """
    if init not in ("teacher", "random"):
        raise ConfigError("no such start", key="student.init", value=init, allowed="teacher, random")


def unused_bert_weights(total: int, chosen: list[int]) -> dict[str, str]:
    """Why weights of a BERT source stay unused in a student of another class: name prefix -> reason."""
    reasons = {f"bert.encoder.layer.{layer}.": f"layer {layer} not taken" for layer in set(range(total)) - set(chosen)}
    return reasons | {
        "bert.pooler.": "the student has no pooler",
        "cls.seq_relationship.": "only the masked-LM head is distilled",
        "cls.predictions.bias": "the forward pass adds decoder.bias",
    }
