"""What a search draws from, read from Hydra's sweep grammar."""

from __future__ import annotations

from typing import Any

import pytest

from distillkit.errors import ConfigError
from distillkit.sweeps.space import read_space


@pytest.mark.parametrize(
    ("text", "low", "high", "whole", "log"),
    [
        ("interval(0,10)", 0, 10, False, False),
        ("int(interval(1,8))", 1, 8, True, False),
        ("tag(log,interval(1e-5,1e-3))", 1e-5, 1e-3, False, True),
        ("tag(log,int(interval(1,100)))", 1, 100, True, True),
    ],
)
def test_space_keeps_ends_and_kind_when_an_interval_is_given(
    text: str, low: float, high: float, whole: bool, log: bool
) -> None:
    (dimension,) = read_space({"optimizer.lr": text})
    assert (dimension.low, dimension.high, dimension.whole, dimension.log) == (low, high, whole, log)
    assert dimension.choices is None


@pytest.mark.parametrize(
    ("text", "words", "values"),
    [
        ("0,1,5", ["0", "1", "5"], [0, 1, 5]),
        ("range(1,4)", ["1", "2", "3"], [1, 2, 3]),
        ("range(0,1,0.5)", ["0.0", "0.5"], [0.0, 0.5]),
        ("choice(a,b)", ["a", "b"], ["a", "b"]),
        ("null,'a b',[1,2]", ["null", "'a b'", "[1,2]"], [None, "a b", [1, 2]]),
        ("5", ["5"], [5]),
    ],
)
def test_space_lists_words_and_values_when_choices_are_given(text: str, words: list[str], values: list[Any]) -> None:
    (dimension,) = read_space({"student.layers": text})
    assert (dimension.choices, dimension.values) == (words, values)


@pytest.mark.parametrize("text", ["interval(5,1)", "tag(log,interval(0,1))", "range(3,1)", "a b(", "glob(*)",
                                  "interval(1,2),3", "range(1,2,0)"])  # fmt: skip
def test_space_is_refused_in_one_line_when_nothing_can_be_drawn(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^loss\.alpha="):
        read_space({"loss.alpha": text})
