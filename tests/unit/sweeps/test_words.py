"""Words in Hydra's sweep grammar."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.errors import ConfigError
from distillkit.sweeps.words import combinations, quoted, value_of, with_absolute_path


def test_combinations_vary_the_last_word_fastest_when_several_have_values() -> None:
    assert combinations(["a=1", "b=x,y", "c=range(2)"]) == [
        ["a=1", "b=x", "c=0"], ["a=1", "b=x", "c=1"], ["a=1", "b=y", "c=0"], ["a=1", "b=y", "c=1"],
    ]  # fmt: skip
    assert combinations([]) == [[]]


@pytest.mark.parametrize(
    ("word", "part"),
    [("a=interval(0,1)", "no list of values"), ("a=b=c", "not in Hydra's grammar"), ("a=glob(*)", "not a sweep")],
)
def test_combinations_are_refused_when_a_word_cannot_be_listed(word: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        combinations([word])


@pytest.mark.parametrize("value", ["plain", "/a=1,b/c d", "it's", "[1,2]", "1", "${x}", "a,b", "range(3)"])
def test_value_comes_back_as_it_stands_when_quoted(value: str) -> None:
    assert value_of(quoted("run.dir", value)) == value
    assert combinations([quoted("run.dir", value)]) == [[quoted("run.dir", value)]]


def test_path_is_made_absolute_when_its_key_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my teacher").mkdir()
    assert value_of(with_absolute_path("teacher.path='my teacher'")) == str(tmp_path / "my teacher")
    assert with_absolute_path("teacher.path=demo") == "teacher.path=demo"
    assert value_of(with_absolute_path("data.path=[a.txt,b.txt]")) == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert with_absolute_path("loss.alpha=0") == "loss.alpha=0"
    assert with_absolute_path("data.path=null") == "data.path=null"
