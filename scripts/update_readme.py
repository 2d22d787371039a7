"""Puts the figures of docs/figures/*.json into the README, between its markers.

python scripts/update_readme.py
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README, FIGURES = ROOT / "README.md", ROOT / "docs" / "figures"
QUALITY = {"mlm_loss": "{:.3f}", "top1": "{:.1%}", "agreement": "{:.1%}", "kl": "{:.3f}"}
TITLES = "held-out MLM loss | top-1 | agreement with the teacher | KL to the teacher"


def demo_table(demo: Mapping[str, Any]) -> str:
    """What `make demo` prints, as Markdown: name -> figures under "table", seconds per run under "seconds"."""
    lines = [f"| model | unique parameters | nominal parameters | {TITLES} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in demo["table"].items():
        cells = [text.format(row[key]) if key in row else "-" for key, text in QUALITY.items()]
        lines.append(f"| {name} | {row['unique_parameters']:,} | {row['nominal_parameters']:,} | {' | '.join(cells)} |")
    minutes = sum(demo["seconds"].values()) / 60
    lines += ["", f"({minutes:.0f} minutes on {demo['cpus']} cores, installation not counted.)"]
    return "\n".join(lines)


def control_table(control: Mapping[str, Any]) -> str:
    """The distilled student against the control, mean over the seeds and every seed in brackets."""
    names = {"demo_distilbert": "distilled (3 of 6 layers)", "demo_no_teacher": "control"}
    lines = [f"| student | {TITLES} |", "|---|---:|---:|---:|---:|"]
    for experiment, title in names.items():
        rows = [run for run in control["runs"] if run["experiment"] == experiment]
        lines.append(f"| {title} | {' | '.join(_over_seeds(rows, key) for key in QUALITY)} |")
    teacher = control["teacher"]
    cells = [QUALITY[key].format(teacher[key]) if key in teacher else "-" for key in QUALITY]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(run["seed"] for run in control["runs"]))
    return "\n".join(
        [*lines, f"| the teacher | {' | '.join(cells)} |", "", f"(Mean over seeds {seeds}; each in brackets.)"]
    )


def _over_seeds(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    each = ", ".join(QUALITY[key].format(value) for value in values)
    return f"{QUALITY[key].format(statistics.fmean(values))} ({each})"


def filled(readme: str) -> str:
    """The README with both tables as the JSON files have them."""
    for name, render in (("demo", demo_table), ("control", control_table)):
        table = render(json.loads((FIGURES / f"{name}.json").read_text()))
        pattern = rf"(<!-- {name} table -->\n).*?(<!-- end -->)"
        readme = re.sub(pattern, lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", readme, flags=re.S)
    return readme


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
