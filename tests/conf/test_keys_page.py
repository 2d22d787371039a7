"""docs/keys.md is what the configuration files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_keys_page_is_current_when_conf_changes() -> None:
    spec = importlib.util.spec_from_file_location("write_keys", ROOT / "scripts" / "write_keys.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "keys.md").read_text() == module.render(), "run scripts/write_keys.py"
    assert "| `loss.temperature` | `2.0` | of the soft targets |" in module.render()
