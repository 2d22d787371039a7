"""How fast a training step is, beside what people use today.

    python scripts/benchmark.py step [--shape small|base] [--minutes 4] [--batches random ...] [--dropout 0.1 0]
    python scripts/benchmark.py memory [--shape small] [--rows 32] [--length 512] [--contenders ours_bf16_all]
    python scripts/benchmark.py scaling [--shape small] [--quick]
    python scripts/benchmark.py cache [--shape small|base] [--minutes 2]
    python scripts/benchmark.py loop [--steps 60] [--turns 2] [key=value ...]

Each prints tables and adds its section to --output FOLDER/benchmark.json (default runs/benchmark); step draws figures.
`scripts/update_readme.py --benchmark FOLDER` takes them into the README. What cannot be imported is left out, and said
so. Exits with 1 when losses that have one definition differ.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # scripts.benchmarking, and the original in tests/parity

import torch

from distillkit import __version__, machine
from distillkit.progress import results_console
from distillkit.report import facts
from distillkit.storage import write_text
from scripts.benchmarking import cached, costs, figures, loop, notes, step, tables
from scripts.benchmarking.batches import KINDS
from scripts.benchmarking.recipes import OURS, RECIPES, left_out, present
from scripts.benchmarking.shapes import SHAPES

TITLES = {name: recipe.title for name, recipe in RECIPES.items()}
JSON = "benchmark.json"


def run_step(args: argparse.Namespace) -> int:
    """`step`; returns the exit code."""
    for line in left_out(args.contenders):
        _say(line)
    recipes = present(args.contenders)
    plan = step.Plan(recipes, args.batches, args.dropout, args.minutes * 60, not args.no_memory)
    section = step.measure(SHAPES[args.shape], plan, _say)
    section |= {
        "shape": args.shape, "titles": {name: recipe.title for name, recipe in recipes.items()},
        "precisions": {name: recipe.precision for name, recipe in recipes.items()},
        "left_out": left_out(args.contenders), "threads": torch.get_num_threads(),
    }  # fmt: skip
    section["notes"] = notes.of(section, args.kept)
    _record(args, ("step", args.shape), section)
    for table in (*tables.case_tables(section), tables.facts_table(section)):
        results_console().print(table)
    roof = ", ".join(f"{name} {best / 1e9:,.0f} GFLOP/s" for name, best in section["roof"].items())
    print(f"roof of a matrix product, best of all probes: {roof}")
    print("\n".join(section["notes"]))
    print("\n".join(map(str, figures.write(section, args.output))))
    wrong = [TITLES[name] for name, found in section["losses"].items() if found["agrees"] is False]
    if wrong:
        print(f"error: another loss than the original's: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


def run_memory(args: argparse.Namespace) -> int:
    """`memory`; returns the exit code."""
    points = costs.memory_points(args.shape, _names(args), args.rows, args.length, 30_522)
    found = costs.measure(points, steps=1)
    _record(args, ("memory", f"{args.shape}_{args.rows}x{args.length}"), {"points": found})
    results_console().print(tables.points_table(f"{args.shape}: a step in a process of its own", found, TITLES))
    return 0


def run_scaling(args: argparse.Namespace) -> int:
    """`scaling`; returns the exit code."""
    section: dict[str, Any] = {"series": {}, "growth": {}}
    for what, points in costs.scaling_points(args.shape, _names(args), quick=args.quick).items():
        _say(f"over {what}: {len(points)} processes")
        section["series"][what] = found = costs.measure(points, steps=args.steps)
        grown = {n: costs.growth([p for p in found if p["contender"] == n], what) for n in _names(args)}
        section["growth"][what] = grown
        results_console().print(tables.points_table(f"{args.shape}, over {what}", found, TITLES))
        said = ", ".join(f"{TITLES[n]} {'-' if g is None else f'{g:.2f}'}" for n, g in grown.items())
        print(f"cost of a unit at the largest size, of that at the smallest (1: linear; less: a fixed part): {said}")
    _record(args, ("scaling", args.shape), section)
    return 0


def run_cache(args: argparse.Namespace) -> int:
    """`cache`; returns the exit code."""
    args.output.mkdir(parents=True, exist_ok=True)
    section = {}
    for positions in ("all", "predicted"):
        with tempfile.TemporaryDirectory(dir=args.output) as folder:
            found = cached.measure(SHAPES[args.shape], Path(folder), positions=positions, seconds=args.minutes * 30)
        section[positions] = found
        for name in ("uncached", "filling", "cached"):
            print(f"{positions}, {name}: {tables.spread(found['seconds'][name], '{:.3f}')} s a step")
        ratio = tables.spread(found["ratio"], "{:.2f}")
        print(f"{positions}: an epoch from the cache is {ratio} times as fast as one without; by operations alone: "
              f"{found['bound']:.2f}")  # fmt: skip
    _record(args, ("cache", args.shape), section)
    return 0


def run_loop(args: argparse.Namespace) -> int:
    """`loop`; returns the exit code."""
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as folder:
        section = loop.measure(Path(folder), steps=args.steps, turns=args.turns, words=args.words)
    _record(args, ("loop", "demo_distilbert"), section)
    for name in ("loop", "bare"):
        print(f"{name}: {tables.spread(section[name], '{:,.0f}')} tokens/s")
    print(f"the whole loop reaches {section['share']:.3f} of the bare step")
    return 0


def _names(args: argparse.Namespace) -> list[str]:
    return args.contenders or [name for name in RECIPES if name.startswith(OURS)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _record(args: argparse.Namespace, place: tuple[str, str], section: dict[str, Any]) -> None:
    """Puts a section into the JSON file, beside those of other runs."""
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / JSON
    results = json.loads(path.read_text()) if path.is_file() else {}
    where = {"version": __version__, "machine": facts.machine() | {"kept_freed_memory": args.kept}}
    results.setdefault(place[0], {})[place[1]] = where | section
    write_text(path, json.dumps(results, indent=1) + "\n")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", type=Path, default=Path("runs/benchmark"))
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument("--shape", choices=SHAPES, default="small")
    sized.add_argument("--contenders", nargs="+", choices=RECIPES)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb, parents in (
        ("step", run_step, [shared, sized]), ("memory", run_memory, [shared, sized]),
        ("scaling", run_scaling, [shared, sized]), ("cache", run_cache, [shared, sized]), ("loop", run_loop, [shared]),
    ):  # fmt: skip
        own = verbs.add_parser(name, parents=parents)
        own.set_defaults(run=verb)
        if name == "step":
            own.add_argument("--minutes", type=float, default=4.0, help="for the rounds of all cases together")
            own.add_argument("--batches", nargs="+", choices=KINDS, default=list(KINDS))
            own.add_argument("--dropout", nargs="+", type=float, default=[0.1, 0.0])
            own.add_argument("--no-memory", action="store_true")
        elif name == "memory":
            own.add_argument("--rows", type=int, default=32)
            own.add_argument("--length", type=int, default=512)
        elif name == "cache":
            own.add_argument("--minutes", type=float, default=2.0, help="for the rounds")
        elif name == "scaling":
            own.add_argument("--steps", type=int, default=3, help="timed steps of a process")
            own.add_argument("--quick", action="store_true", help="the ends of each range alone")
        else:
            own.add_argument("--steps", type=int, default=60)
            own.add_argument("--turns", type=int, default=2)
            own.add_argument("words", nargs="*", metavar="key=value")
    return parser.parse_args(words)


if __name__ == "__main__":
    arguments = parse(sys.argv[1:])
    arguments.kept = machine.keep_freed_memory()  # for every contender
    sys.exit(arguments.run(arguments))
