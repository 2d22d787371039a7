"""docs/keys.md is what the configuration files say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_keys_page_is_current_when_conf_changes() -> None:
    spec = importlib.util.spec_from_file_location("write_keys", ROOT / "scripts" / "write_keys.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "keys.md").read_text() == module.render(), "run scripts/write_keys.py"
    assert "| `loss.temperature` | `2.0` | of the soft targets, on both sides; in (0, 100] |" in module.render()


def test_keys_page_has_default_and_meaning_when_a_key_is_listed() -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "keys.md").read_text(), flags=re.M)[1:]
    groups = [section for section in sections if not section.startswith("`experiment=")]
    bare = [line for section in groups for line in section.splitlines() if re.search(r"^\| .*\|\s*\|", line)]
    assert sum(section.count("\n| `") for section in groups) > 90 and not bare, "say in conf what they mean"
    untitled = [section.splitlines()[0] for section in sections if not section.splitlines()[2].strip()]
    assert not untitled, "a comment at the file's top says what it is"
