"""What the figures need said: peers that are not where they were expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def of(section: Mapping[str, Any]) -> list[str]:
    return []
