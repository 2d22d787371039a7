"""The sizes of an ALBERT student and what its layers share: which values fit together.

It imports nothing heavy, so that a run is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillkit.errors import ConfigError

SHARES = ("all", "attention", "ffn", "none")
"""What all layers may share. Of "attention" and "ffn" each takes its LayerNorm along, as in the paper's counts."""

SIZES = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
"""What a student without a source must be told."""

_COUNTS = (*SIZES, "embedding_size", "num_groups", "max_positions")
_BOUNDS = {"embedding_size": "hidden_size", "num_groups": "num_layers"}


def check_shape(shape: Mapping[str, Any]) -> None:
    """Refuses sizes, groups and a shared part that do not fit together.

    Args:
        shape: key under student -> value; what is None or missing is not known yet, and fits.

    Raises:
        ConfigError: naming the key.
    """
    for name in _COUNTS:
        value = shape.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ConfigError("must be a whole number", key=f"student.{name}", value=value, allowed="1 or more")
    for name, bound in _BOUNDS.items():
        value, most = shape.get(name), shape.get(bound)
        if value is not None and most is not None and value > most:
            raise ConfigError("out of range", key=f"student.{name}", value=value, allowed=f"1..{most}")
    width, heads = shape.get("hidden_size"), shape.get("num_heads")
    if width is not None and heads is not None and width % heads:
        raise ConfigError(
            f"heads of equal width are needed, of {width} in all", key="student.num_heads", value=heads,
            allowed=f"a divisor of {width}", fix="set student.num_heads to hidden_size / 64, as the paper does",
        )  # fmt: skip
    _check_share(shape.get("share", "all"), shape.get("num_layers"), shape.get("num_groups"))


def _check_share(share: Any, layers: int | None, groups: int | None) -> None:
    if share not in SHARES:
        raise ConfigError("no such choice", key="student.share", value=share, allowed=", ".join(SHARES))
    if share != "all" and None not in (layers, groups) and groups != layers:
        raise ConfigError(
            f"with student.share={share} each of the {layers} layers is a group of its own", key="student.num_groups",
            value=groups, allowed=f"null or {layers}", fix="leave student.num_groups out, or set student.share=all",
        )  # fmt: skip


def check_complete(shape: Mapping[str, Any]) -> None:
    """Refuses a student without a source whose sizes are not all given.

    Args:
        shape: as in `check_shape`.

    Raises:
        ConfigError: naming the first size that is missing.
    """
    for name in SIZES:
        if shape.get(name) is None:
            raise ConfigError(
                "without a teacher nothing gives this size", key=f"student.{name}", value=None, allowed="1 or more",
                fix="set it, or choose student=albert_base, albert_large, albert_xlarge or albert_xxlarge",
            )  # fmt: skip


def check_scratch(student: Mapping[str, Any], tokenizer: str | None) -> None:
    """Refuses a student with no model to start from whose sizes, vocabulary and weights do not come from elsewhere.

    Args:
        student: a configuration's, of any kind; ALBERT's alone have sizes of their own.
        tokenizer: tokenizer.path.

    Raises:
        ConfigError: naming what is missing.
    """
    if student.get("hidden_size") is None:
        raise ConfigError(
            "without a teacher the student needs initial weights, or sizes of its own", key="student.init_from",
            value=None, allowed="a folder, a hub name, demo",
            fix="set student.init_from=FOLDER, or from scratch student=albert_base tokenizer.path=FOLDER",
        )  # fmt: skip
    check_complete(student)
    if student.get("init") != "random":
        raise ConfigError(
            "there are no weights to start from", key="student.init", value=student.get("init"), allowed="random",
            fix="set student.init=random, or student.init_from=FOLDER",
        )  # fmt: skip
    if not tokenizer:
        raise ConfigError(
            "nothing gives the student's vocabulary", key="tokenizer.path", value=None,
            allowed="a folder, a hub name, demo", fix="set tokenizer.path=FOLDER",
        )  # fmt: skip


def group_count(share: str, num_layers: int, num_groups: int | None) -> int:
    """Layer groups of the model: with share "all" those asked for (None: one), else one a layer."""
    return (num_groups or 1) if share == "all" else num_layers


def group_of(layer: int, layers: int, groups: int) -> int:
    """The group of a layer, in the float arithmetic of transformers' AlbertTransformer so that both always agree."""
    return int(layer / (layers / groups))
