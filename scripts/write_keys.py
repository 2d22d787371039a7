"""Writes docs/keys.md: every configuration key with its default and meaning, read from the comments in conf/.

python scripts/write_keys.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "keys.md"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[a-z_]+):(?: (?P<value>.*?))?(?:  # (?P<meaning>.*))?$")
HEAD = """# Every key

Written by `scripts/write_keys.py` from the files in conf/; a test keeps it so. Choose a file of a group with
`group=file`, set a key with `key=value`. An experiment sets keys of the groups, where their meaning stands; what stands
beside a value is why.
"""


def rows(lines: list[str], prefix: str) -> list[str]:
    """Table rows of a file's keys; `_target_` and other wiring is left out."""
    found, parents = [], []
    for line in lines:
        match = LINE.match(line)
        if match is None or match["key"].startswith("_") or match["key"] in ("defaults", "corpus", "terms"):
            if match is not None and match["key"] in ("corpus", "terms"):
                break
            continue
        depth = len(match["indent"]) // 2
        parents = [*parents[:depth], match["key"]]
        if match["value"] is not None:
            meaning = (match["meaning"] or "").replace("|", "or")
            found.append(f"| `{prefix}{'.'.join(parents)}` | `{match['value']}` | {meaning} |")
    return found


def section(path: Path) -> str:
    """One file's part: its title, its leading comment, its keys."""
    relative = path.relative_to(ROOT / "conf")
    group = "" if len(relative.parts) == 1 else relative.parts[0]
    lines = path.read_text().splitlines()
    comment = [line[2:] for line in lines if line.startswith("# ") and "@package" not in line]
    prefix = f"{group}." if group and group != "experiment" else ""
    table = [] if group == "sweep" and path.stem != "base" else rows(lines, prefix)  # keys of sweep/base.yaml
    head = ["| key | value | why |" if group == "experiment" else "| key | default | meaning |", "|---|---|---|"]
    title = f"`{group}={path.stem}`" if group and path.stem != "base" else f"`{relative}`"
    return "\n".join([f"## {title}", "", *comment, *(["", *head, *table] if table else [])])


def render() -> str:
    """The whole page."""
    order = sorted((ROOT / "conf").rglob("*.yaml"), key=lambda p: (len(p.relative_to(ROOT).parts), str(p)))
    return "\n\n".join([HEAD.rstrip(), *(section(path) for path in order)]) + "\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(render())
