"""Overrides in Hydra's sweep grammar: parsed, combined, and their paths made absolute."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from distillkit import config
from distillkit.errors import ConfigError


def parse(word: str) -> Override:
    """An override as Hydra's parser reads it.

    Raises:
        ConfigError: it does not parse.
    """
    try:
        return OverridesParser.create().parse_overrides([word])[0]
    except HydraException:
        config.load("train", [word])  # says in one line what does not parse
        raise


def combinations(words: Sequence[str]) -> list[list[str]]:
    """Every combination of the values of multi-valued words, the last word's values fastest.

    Args:
        words: Hydra's grammar with sweeps: a=1,2  b=range(3)  group=x,y; single values stay as they are.

    Raises:
        ConfigError: a word does not parse, or its values cannot be listed.
    """
    parsed = [parse(word) for word in words]
    for word, override in zip(words, parsed, strict=True):
        key, _, value = word.partition("=")
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise ConfigError("an interval has no list of values", key=key, value=value,
                              fix="list them, as in 0,1,5, or search: sweep.method=tpe")  # fmt: skip
    if not parsed:
        return [[]]
    try:
        return [list(combination) for combination in BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]]
    except HydraException as error:
        raise ConfigError(f"not a sweep: {str(error).splitlines()[0]}", key="words", value=" ".join(words)) from None


def key_of(word: str) -> str:
    """The key or group that a word sets."""
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def value_of(word: str) -> Any:
    """The plain value of a single-valued word."""
    value = parse(word).value()
    return value if isinstance(value, bool | int | float | list | dict) or value is None else str(value)


def quoted(key: str, value: str) -> str:
    """A word whose value is taken as it stands, whatever characters it has."""
    plain = f"{key}={value}"
    with contextlib.suppress(ConfigError):
        if not (parse(plain).is_sweep_override() or "${" in value) and value_of(plain) == value:
            return plain
    return f"{key}={config.quoted(value)}"


def with_absolute_path(word: str) -> str:
    """The word, its path made absolute when its key has one: a command is to mean the same from any folder."""
    key = key_of(word)
    if key not in config.PATHS or word.startswith("~"):
        return word
    before = value_of(word)
    after = config.absolute(before, key) if isinstance(before, str | list) and "${" not in str(before) else before
    if after == before:
        return word
    if isinstance(after, list):
        return f"{key}=[{','.join(quoted(key, str(part)).partition('=')[2] for part in after)}]"
    return quoted(key, after)
