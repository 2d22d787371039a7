"""Which classes and functions a configuration may name as `_target_`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillkit.errors import ConfigError

_TARGETS = (
    r"pytorch_lightning\.(Trainer|(callbacks|loggers|strategies|profilers)\.\w+)",
    r"torch\.optim\.(lr_scheduler\.)?\w+",
    r"transformers\.get_\w+",
)


def check_targets(cfg: dict[str, Any]) -> None:
    """Refuses a `_target_` outside distillkit and the named parts of its libraries: Hydra would call anything.

    Args:
        cfg: nested plain values; `run.trusted_modules` lets a user's own packages in.

    Raises:
        ConfigError: naming the target and how to allow it.
    """
    trusted = tuple(f"{name}." for name in cfg["run"]["trusted_modules"])
    allowed = "distillkit, pytorch_lightning, torch.optim, transformers.get_*"
    for key, value in _targets(cfg):
        if not (value.startswith(trusted) or _is_ours(value) or any(re.fullmatch(t, value) for t in _TARGETS)):
            raise ConfigError(
                "not a class that a configuration may name", key=key, value=value, allowed=allowed,
                fix=f"if it is your own code: run.trusted_modules=[{value.partition('.')[0]}]",
            )  # fmt: skip


def _is_ours(target: str) -> bool:
    """Whether a dotted name is defined in distillkit; what its modules import, such as os, is not."""
    package, *path = target.split(".")
    if package != "distillkit":
        return False
    file = Path(__file__).parent
    while path and (file / path[0]).is_dir():
        file /= path.pop(0)
    if len(path) < 2 or not (file / f"{path[0]}.py").is_file():
        return False
    tree = ast.parse((file / f"{path[0]}.py").read_text())
    return path[1] in {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "_target_" and value is not None:
                yield key, str(value)
            yield from _targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{key}[{index}]")
