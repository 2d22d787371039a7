"""Shallow students: fewer layers, in the source's own class."""

from __future__ import annotations

from typing import Literal

from transformers import PreTrainedConfig, PreTrainedModel

from distillkit.errors import ConfigError
from distillkit.students.layers import check_init, choose_layers, copy_config, find_layers
from distillkit.students.transfer import BuiltStudent, Transfer, start_randomly


def build_shallow(
    source: PreTrainedModel,
    *,
    num_layers: int | None = None,
    layers: list[int] | None = None,
    init: Literal["teacher", "random"] = "teacher",
    dropout: float | None = None,
) -> BuiltStudent:
    """A student of the source's own class with some of its layers; everything else is copied.

    Args:
        source: any masked-LM model of transformers with one block per layer.
        num_layers: layers of the student; None: half of the source's, rounded up.
        layers: the source layers to take; None: spread evenly, first and last included.
        init: "teacher", or "random": fresh weights, and of the source the sizes alone; `layers` then only counts them.
        dropout: hidden and attention dropout; None: the source's.

    Returns:
        BuiltStudent: float32, train mode.

    Raises:
        ConfigError: an argument is out of range, the model shares its layers, or a layer cannot stand where it would.

    Source: DistilRoBERTa, the DistilBERT recipe on another class.
    """
    check_init(init)
    path = find_layers(source)
    chosen = choose_layers(source.config.num_hidden_layers, num_layers, layers)
    student = type(source)(_config(source, chosen, dropout))
    if init == "random":
        return start_randomly(source, student)
    transfer = Transfer(source, student)
    _check_places(transfer, path, chosen)
    for name in transfer.student_names:
        index, rest = _split(name, path)
        transfer.copy(name, name if index is None else f"{path}.{chosen[index]}.{rest}")
    for name in transfer.source_names:
        layer, _ = _split(name, path)
        if layer is not None and layer not in chosen:
            transfer.leave(name, f"layer {layer} not taken")
    return transfer.finish({index: [layer] for index, layer in enumerate(chosen)})


def _config(source: PreTrainedModel, chosen: list[int], dropout: float | None) -> PreTrainedConfig:
    """The source's config for the chosen layers only."""
    config = copy_config(source, dropout)
    # ModernBERT's `layer_types` names the attention of each layer; a kept layer keeps its own.
    if layer_types := getattr(source.config, "layer_types", None):
        config.layer_types = [layer_types[layer] for layer in chosen]
    config.num_hidden_layers = len(chosen)
    return config


def _split(name: str, path: str) -> tuple[int | None, str]:
    """A weight's layer and its name within it; None for a weight outside of the layers."""
    if not name.startswith(f"{path}."):
        return None, name
    index, _, rest = name.removeprefix(f"{path}.").partition(".")
    return int(index), rest


def _check_places(transfer: Transfer, path: str, chosen: list[int]) -> None:
    """Refuses a layer whose weights differ from those of its new place (ModernBERT's first has no attention norm)."""
    source = {_split(name, path) for name in transfer.source_names}
    student = {_split(name, path) for name in transfer.student_names}
    for index, layer in enumerate(chosen):
        if {rest for at, rest in source if at == layer} != {rest for at, rest in student if at == index}:
            raise ConfigError(
                f"layer {layer} of the source cannot stand at place {index}: its weights differ",
                key="student.layers",
                value=chosen,
                fix="keep the first layer first",
            )
