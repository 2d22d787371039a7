"""Rules that a single value of a configuration follows."""

from __future__ import annotations

import math
from typing import Any

from distillkit.errors import ConfigError

HELD_OUT = ("loss", "mlm_loss", "top1", "agreement", "kl", "sop_loss", "sop_accuracy")
"""Figures of a validation, in metrics.csv as valid/NAME."""


def check_number(
    cfg: dict[str, Any],
    key: str,
    *,
    low: float,
    high: float = math.inf,
    open_ends: bool | str = False,
    integer: bool = False,
    optional: bool = False,
    fix: str | None = None,
) -> None:
    """Refuses a value that is no number, or none in the range.

    Args:
        cfg: settled.
        key: dotted; where the configuration has none, as for an optimizer of the user's own, nothing is checked.
        low, high: the ends of the range.
        open_ends: True: the ends are not in it; "low": the lower one is not.
        integer: whole numbers alone.
        optional: None is a value too.
        fix: what to do about it.
    """
    value: Any = cfg
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return
        value = value[part]
    if value is None and optional:
        return
    low_open, high_open = bool(open_ends), open_ends is True or high == math.inf
    text = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    inside = (
        right_type and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
    )
    if not inside:
        kind = "whole number" if integer else "number"
        raise ConfigError(f"must be a {kind} in the allowed range", key=key, value=value, allowed=text, fix=fix)


def check_limit(cfg: dict[str, Any], group: str, name: str, *, low: int) -> None:
    """Refuses what is no number of batches from `low` on, no share of them and not None: Lightning's limits."""
    value = cfg[group][name]
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= low
    share = isinstance(value, float) and 0 <= value <= 1 and (low == 0 or value > 0)
    if not (value is None or whole or share):
        raise ConfigError("must be a number of batches or a share of them", key=f"{group}.{name}", value=value,
                          allowed=f"null, >= {low}, a share in (0, 1]", fix=f"set {group}.{name}=null")  # fmt: skip


def check_metric(cfg: dict[str, Any], group: str, name: str) -> None:
    """Refuses a held-out figure that no run has; other columns of metrics.csv are taken as they come."""
    prefix, _, figure = str(cfg[group].get(name)).partition("/")
    if prefix == "valid" and figure not in HELD_OUT:
        raise ConfigError("no such held-out figure", key=f"{group}.{name}", value=cfg[group][name],
                          allowed=", ".join(f"valid/{known}" for known in HELD_OUT))  # fmt: skip
