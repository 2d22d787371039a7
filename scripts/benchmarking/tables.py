"""What a person reads of the figures, at most 140 columns wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

CASE = {"packed": "packed", "random": "random lengths", "grouped": "length-grouped"}


def spread(figures: Mapping[str, float], form: str) -> str:
    """A median with its quartiles in brackets."""
    low, median, high = (form.format(figures[key]) for key in ("low", "median", "high"))
    return f"{median} ({low}-{high})"


def case_tables(section: Mapping[str, Any]) -> Iterator[Table]:
    """One table a case: a contender a row."""
    for case in section["cases"]:
        title = (
            f"{section['shape']}, {CASE[case['batches']]} ({case['fill']:.0%} of the positions real), dropout"
            f" {case['dropout']:g}: median (quartiles) of {case['rounds']} rounds"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("contender", no_wrap=True)
        for head in ("real tokens/s", "x original", "MFLOP/token", "of bf16 roof", "of fp32 roof"):
            table.add_column(head, justify="right", no_wrap=True)
        for name, row in case["contenders"].items():
            own = f"{row['of_roof']['fp32']:.2f}" if section["precisions"][name] == "fp32" else "-"
            table.add_row(
                section["titles"][name], spread(row["tokens_per_second"], "{:,.0f}"), spread(row["ratio"], "{:.2f}"),
                f"{row['flops_per_token'] / 1e6:,.1f}", f"{row['of_roof']['bf16']:.2f}", own,
            )  # fmt: skip
        yield table


def facts_table(section: Mapping[str, Any]) -> Table:
    """Loss and memory, a contender a row."""
    table = Table(title="one step: loss on a common batch without dropout, peak memory of a process of its own")
    table.add_column("contender", no_wrap=True)
    for head in ("loss", "expected", "difference", "agrees", "peak MB"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("definition")
    for name, found in section["losses"].items():
        agrees = {True: "yes", False: "NO", None: "-"}[found["agrees"]]
        peak = section["memory_mb"].get(name)
        table.add_row(
            section["titles"][name], f"{found['loss']:.6f}", f"{found['expected']:.6f}", f"{found['difference']:.1e}",
            agrees, "-" if peak is None else f"{peak:,.0f}", found["definition"],
        )  # fmt: skip
    return table


def points_table(title: str, points: list[dict[str, Any]], titles: Mapping[str, str]) -> Table:
    """Costs over sizes, a point a row."""
    table = Table(title=title, title_justify="left")
    table.add_column("contender", no_wrap=True)
    for head in ("rows", "length", "vocabulary", "tokens", "s/step", "ms/1,000 tokens", "peak MB"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in points:
        tokens, seconds, peak = point["rows"] * point["length"], point["seconds"], point["peak_memory_mb"]
        cells = ["-"] * 3 if seconds is None else [f"{seconds:.3f}", f"{seconds / tokens * 1e6:.0f}", f"{peak:,.0f}"]
        size = [f"{value:,}" for value in (point["rows"], point["length"], point["vocabulary"], tokens)]
        table.add_row(titles[point["contender"]], *size, *cells)
    return table
