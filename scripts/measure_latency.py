"""Whether latency measured again agrees within the spread that is stated with it.

    python scripts/measure_latency.py [MODEL...] [--times 3] [--out docs/figures/latency.json]

Measures the models side by side, as a report does, in fresh processes one after the other, and compares every two
measurements of a model: their medians are to differ by at most the larger of their spreads. A MODEL is a folder, a hub
name or demo. Exits with 1 when a model does not agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.table import Table

from distillkit import __version__, machine
from distillkit.evaluation.speed import latency
from distillkit.progress import results_console
from distillkit.report import facts
from distillkit.teachers import load_model

MODELS = ("demo", "runs/demo/distilbert/student", "runs/demo/albert/student")


def measure(models: Sequence[str]) -> list[dict[str, Any]]:
    """One measurement of all models, in this process; `latency`'s figures in the order of the models."""
    machine.keep_freed_memory()
    return list(latency({path: load_model(path) for path in models}).values())


def compared(measurements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What several measurements of one model say of each other.

    Args:
        measurements: `latency`'s figures of the model, at least two.

    Returns:
        medians (ms) and spreads (shares of the median) in order; difference, the largest between two medians as a
        share of the smaller; agrees, whether every two medians differ by at most the larger spread of the two.
    """
    pairs = list(itertools.combinations(measurements, 2))
    gaps = [abs(a["median"] - b["median"]) for a, b in pairs]
    allowed = [max(a["median"] * a["spread"], b["median"] * b["spread"]) for a, b in pairs]
    return {
        "medians": [each["median"] for each in measurements],
        "spreads": [each["spread"] for each in measurements],
        "difference": max(gap / min(a["median"], b["median"]) for gap, (a, b) in zip(gaps, pairs, strict=True)),
        "agrees": all(gap <= most for gap, most in zip(gaps, allowed, strict=True)),
    }


def print_comparison(models: dict[str, dict[str, Any]]) -> None:
    """One row a model: its medians with their spreads, and whether they agree; whether that says anything."""
    table = Table("model", "medians, ms (spread)", "largest difference", "within the spread")
    for name, found in models.items():
        pairs = zip(found["medians"], found["spreads"], strict=True)
        medians = ", ".join(f"{median:.2f} ({spread:.0%})" for median, spread in pairs)
        table.add_row(name, medians, f"{found['difference']:.1%}", "yes" if found["agrees"] else "NO")
    results_console().print(table)
    if max(spread for found in models.values() for spread in found["spreads"]) > facts.BUSY:
        print(f"note: spreads beyond {facts.BUSY:.0%}: the machine was busy, measure again when it is not")


def main(words: Sequence[str]) -> int:
    """Measures, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/latency.json"))
    args = parser.parse_args(words)
    if args.times < 2:
        parser.error("--times: at least 2")
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        measured = [fresh.submit(measure, args.models).result() for _ in range(args.times)]
    names = facts.short_names([Path(model) for model in args.models])
    models = {name: compared(each) for name, each in zip(names, zip(*measured, strict=True), strict=True)}
    shape = {key: measured[0][0][key] for key in ("length", "batch", "threads")}
    result = {"version": __version__, "machine": facts.machine(), "measured": shape, "models": models}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print_comparison(models)
    return 0 if all(found["agrees"] for found in models.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
