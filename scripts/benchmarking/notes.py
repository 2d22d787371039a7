"""What the figures need said: peers that are not where an earlier measurement of the same steps has them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

TOLERANCE = 0.2


class Earlier(NamedTuple):
    """A peer in the earlier measurement: speed relative to the original's, and share of the bf16 roof."""

    ratio: float
    share: float


EARLIER = {
    "original_all": Earlier(1.00, 0.11),
    "original_predicted": Earlier(1.02, 0.09),
    "textbrewer": Earlier(1.00, 0.11),
    "trainer_fp32": Earlier(1.02, 0.11),
    "trainer_bf16": Earlier(1.76, 0.20),
}
"""Base shape, random lengths, on two cores with AVX-512 bf16 whose float32 products in MKL took twice oneDNN's time."""


def of(section: Mapping[str, Any], kept_freed_memory: bool) -> list[str]:
    """Lines about the peers' shares of the roof, each beside its earlier one; none where the case was not measured.

    Args:
        section: of `step.measure`, with its shape and titles.
        kept_freed_memory: whether the allocator was set.
    """
    cases = [case for case in section["cases"] if section["shape"] == "base" and case["batches"] == "random"]
    if not cases:
        return []
    rows = {name: row for name, row in cases[0]["contenders"].items() if name in EARLIER}
    factors = {name: row["of_roof"]["bf16"] / EARLIER[name].share for name, row in rows.items()}
    lines = ["peers beside an earlier measurement (share of the bf16 roof, speed relative to the original):"]
    for name, row in rows.items():
        share, ratio = row["of_roof"]["bf16"], row["ratio"]["median"]
        lines.append(
            f"  {section['titles'][name]}: {share:.2f} ({EARLIER[name].share:.2f}, so {factors[name]:.2f} times),"
            f" {ratio:.2f}x ({EARLIER[name].ratio:.2f}x)"
        )
    return lines + _explained(section, factors, kept_freed_memory)


def _explained(section: Mapping[str, Any], factors: Mapping[str, float], kept_freed_memory: bool) -> list[str]:
    """Why shares are off by more than TOLERANCE: what all peers have in common is no peer's doing."""
    if all(abs(factor - 1) <= TOLERANCE for factor in factors.values()):
        return [f"  all within {TOLERANCE:.0%}"]
    common = statistics.median(factors.values())
    lines = []
    if abs(common - 1) > TOLERANCE:
        roof = section["roof"]
        plain, half = section["plain_fp32"] / roof["fp32"], roof["fp32"] / roof["bf16"]
        kept = "kept for all" if kept_freed_memory else "given back by all"
        lines.append(
            f"  common to them: {common:.2f} times, which is the machine's: torch's own float32 product reaches"
            f" {plain:.0%} of the float32 roof here (earlier about 50%), that roof is {half:.0%} of the bf16 one, freed"
            f" memory is {kept} (worth up to 2 times to a wasteful step), {section['threads']} threads share the memory"
            " (earlier 2)"
        )
    apart = [section["titles"][name] for name, factor in factors.items() if abs(factor / common - 1) > TOLERANCE]
    if apart:
        lines.append(f"  apart from the others, so to be looked at: {', '.join(apart)}")
    return lines
