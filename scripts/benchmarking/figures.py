"""The figures of a benchmark, one file a theme."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from distillkit.report.drawing import Plan, Theme, draw_all
from distillkit.storage import write_bytes
from scripts.benchmarking.recipes import OURS
from scripts.benchmarking.tables import CASE


def write(section: Mapping[str, Any], folder: Path) -> list[Path]:
    """A bar a contender for every case; returns the files.

    Args:
        section: of `benchmark.py step`.
        folder: for the files.
    """
    plans = [
        Plan(
            "step",
            f"benchmark_{section['shape']}_{case['batches']}_dropout_{case['dropout']:g}".replace(".", ""),
            f"{section['shape'].capitalize()} shape, {CASE[case['batches']]}, dropout {case['dropout']:g}",
            (7.0, 0.9 + 0.34 * len(case["contenders"])),
            partial(_paint, section, case),
        )
        for case in section["cases"]
    ]
    files = []
    for drawing in draw_all(plans):
        for theme, image in drawing.images.items():
            files.append(folder / f"{drawing.name}_{theme}.png")
            write_bytes(files[-1], image)
    return files


def _paint(section: Mapping[str, Any], case: Mapping[str, Any], axes: Axes, theme: Theme) -> None:
    """Bars of tokens/s with their quartiles, and the ratio to the original at their ends."""
    names = list(case["contenders"])
    rows = [case["contenders"][name] for name in names]
    speeds = [row["tokens_per_second"] for row in rows]
    longest = max(speed["high"] for speed in speeds)
    colors = [theme.students[0] if name.startswith(OURS) else theme.faint for name in names]
    spreads = [[s["median"] - s["low"] for s in speeds], [s["high"] - s["median"] for s in speeds]]
    axes.barh(
        range(len(names)), [speed["median"] for speed in speeds], color=colors, height=0.7, xerr=spreads,
        error_kw={"ecolor": theme.text, "capsize": 3, "lw": 1.2}, zorder=2,
    )  # fmt: skip
    for line, (row, speed) in enumerate(zip(rows, speeds, strict=True)):
        axes.text(speed["high"] + 0.015 * longest, line, f"{row['ratio']['median']:.1f}x", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), [section["titles"][name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, longest * 1.12)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("real tokens/s, median and quartiles (x: the original)")
