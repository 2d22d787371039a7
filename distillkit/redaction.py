"""What must not leave the machine: values whose key looks like a secret's."""

from __future__ import annotations

import re
from typing import Any

_SECRET = re.compile(r"passw(or)?d|secret|credential|(api|access|private)_?key|(^|_)token$", re.IGNORECASE)


def is_secret(key: str) -> bool:
    """Whether a key (of one name, no dots) looks like that of a token, password, API key or the like."""
    return _SECRET.search(key) is not None


def without_secrets(node: Any) -> Any:
    """A copy of nested plain values without the keys that look like a secret's."""
    if isinstance(node, dict):
        return {key: without_secrets(value) for key, value in node.items() if not is_secret(str(key))}
    return [without_secrets(value) for value in node] if isinstance(node, list) else node
