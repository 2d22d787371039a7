"""What a search draws from: values by key, in Hydra's sweep grammar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from distillkit.errors import ConfigError

_ALLOWED = "a,b,c  choice(a,b)  range(1,4)  interval(0.1,10)  int(interval(1,8))  tag(log,interval(1e-5,1e-3))"


class Dimension(NamedTuple):
    """One key of a search.

    Attributes:
        key: as typed, with Hydra's prefix if it has one.
        choices: Hydra's words of the values, in order; None for an interval.
        values: the same, plain.
        low, high: ends of an interval, both included; integers where integers are asked for.
        log: whether an interval is drawn from by its logarithm.
    """

    key: str
    choices: list[str] | None = None
    values: list[Any] | None = None
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether an interval is of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[str, str]:
        """Train's overrides with two of its values: the first and the last choice, or a third in from either end."""
        if self.choices is not None:
            return f"{self.key}={self.choices[0]}", f"{self.key}={self.choices[-1]}"
        inward = (self.high - self.low) // 3 if self.whole else (self.high - self.low) / 3
        return f"{self.key}={self.low + inward}", f"{self.key}={self.high - inward}"


def read_space(vary: Mapping[str, Any]) -> list[Dimension]:
    """The dimensions of `sweep.vary`, in its order.

    Args:
        vary: values by key in Hydra's sweep grammar. A range is a choice of its values, without an order: integers
            in order are int(interval(a,b)). A single value is a choice of one.

    Raises:
        ConfigError: nothing to vary, a value outside of the grammar, or an empty or impossible interval.
    """
    if not vary:
        raise ConfigError("a search needs keys to vary", key="sweep.vary", value="{}",
                          fix="e.g. distillkit sweep sweep=tpe loss.alpha=interval(0,10)")  # fmt: skip
    return [_dimension(key, str(text)) for key, text in vary.items()]


def _dimension(key: str, text: str) -> Dimension:
    try:
        override = OverridesParser.create().parse_override(f"{key}={text}")
        sweep = override.value()
        if isinstance(sweep, IntervalSweep):
            return _interval(key, text, sweep)
        if isinstance(sweep, RangeSweep) and sweep.step == 0:
            raise HydraException("a step of 0")
        choices = list(override.sweep_string_iterator()) if override.is_sweep_override() else [text]
    except Exception:  # besides Hydra's own, what its lexer and OmegaConf raise
        raise ConfigError("not in Hydra's sweep grammar", key=key, value=text, allowed=_ALLOWED) from None
    if not choices:
        raise ConfigError("no value to draw", key=key, value=text, allowed=_ALLOWED)
    return Dimension(key, choices, [_plain(key, choice) for choice in choices])


def _interval(key: str, text: str, sweep: IntervalSweep) -> Dimension:
    low, high, log = sweep.start, sweep.end, "log" in sweep.tags
    assert low is not None and high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError("an empty interval", key=key, value=text, allowed="interval(LOW,HIGH) with LOW < HIGH")
    if log and low <= 0:
        raise ConfigError("no logarithm of its lower end", key=key, value=text, allowed="above 0")
    return Dimension(key, low=low, high=high, log=log)


def _plain(key: str, word: str) -> Any:
    override: Override = OverridesParser.create().parse_override(f"{key}={word}")
    return override.value()
