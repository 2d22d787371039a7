"""Every class a configuration file names is there and may be named."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

CONF = Path(__file__).parents[2] / "conf"
TARGETS = sorted(
    {t for p in CONF.rglob("*.yaml") for t in re.findall(r"_target_: ([a-zA-Z_.0-9]+)", p.read_text())} - {"null"}
)


@pytest.mark.parametrize("target", TARGETS)
def test_target_resolves_when_named_in_conf(target: str) -> None:
    parts = target.split(".")
    depth = next(n for n in range(len(parts) - 1, 0, -1) if _is_module(".".join(parts[:n])))
    found: object = importlib.import_module(".".join(parts[:depth]))
    for name in parts[depth:]:
        found = getattr(found, name)
    assert callable(found)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a class
        return False
