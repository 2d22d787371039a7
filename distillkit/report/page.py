"""The page of a run's report: its tables, its Markdown, and what is printed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from distillkit.phases import NAMES
from distillkit.progress import duration
from distillkit.report.drawing import Drawing, by_section
from distillkit.report.figures import SECTIONS
from distillkit.report.markup import Row, cell, known, print_rows, render

MODEL_ROWS: dict[str, tuple[str, str]] = {
    "layers": ("layers", "{:,}"),
    "unique_parameters": ("unique parameters", "{:,}"),
    "nominal_parameters": ("nominal parameters", "{:,}"),
    "disk_mb": ("size on disk, MB", "{:,.1f}"),
    "latency_ms": ("CPU latency, median ms", "{:.2f}"),
    "latency_p95_ms": ("CPU latency, p95 ms", "{:.2f}"),
    "latency_spread": ("CPU latency, spread", "{:.0%}"),
    "peak_memory_mb": ("peak memory, MB", "{:,.0f}"),
    "mlm_loss": ("held-out MLM loss, nats", "{:.3f}"),
    "perplexity": ("perplexity", "{:,.1f}"),
    "top1": ("top-1", "{:.1%}"),
    "of_teacher": ("top-1, share of the teacher's", "{:.1%}"),
    "agreement": ("agreement with the teacher", "{:.1%}"),
    "kl": ("KL to the teacher, nats", "{:.3f}"),
    "sop_accuracy": ("sentence order, share right", "{:.1%}"),
}


def model_table(facts: Mapping[str, Any]) -> list[Row]:
    """The main table: a label and one cell a model, in the order of facts["models"].

    A dash stands where nothing is known; a row of nothing but dashes is left out.
    """
    return known([
        (label, [cell(model.get(key), form.format) for model in facts["models"].values()])
        for key, (label, form) in MODEL_ROWS.items()
    ])  # fmt: skip


def run_table(facts: Mapping[str, Any]) -> list[Row]:
    """How the runs went: a label and one cell a run, in the order of facts["runs"].

    A row of nothing but dashes is left out.
    """
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "state": lambda run: run["state"],
        "optimizer steps": lambda run: f"{run['step']:,}" + (f" of {run['steps']:,}" if run["steps"] else ""),
        "tokens seen": lambda run: cell(run["tokens"], "{:,}".format),
        "time": lambda run: duration(run["seconds"]),
        "sessions": lambda run: str(run["sessions"]),
        "peak memory of training, MB": lambda run: cell(run["training"]["peak_memory_mb"], "{:,.0f}".format),
        "peak GPU memory of training, MB": lambda run: cell(run["training"]["peak_gpu_memory_mb"], "{:,.0f}".format),
        "threads": lambda run: str(run["threads"]),
        "loss": lambda run: ", ".join(f"{weight:g} {term}" for term, weight in run["weights"].items() if weight),
        "temperature": lambda run: cell(run["temperature"], "{:g}".format),
        "distillkit": lambda run: run["version"],
    }
    return known([(label, [show(run) for run in facts["runs"].values()]) for label, show in rows.items()])


def speed_table(facts: Mapping[str, Any]) -> list[Row]:
    """How fast the runs trained: a label and one cell a run; empty where no run tells."""
    runs = [run["speed"] for run in facts["runs"].values()]
    if not any(run["phases"] for run in runs):
        return []
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "tokens/s, median": lambda run: cell(run["tokens_per_second"], "{:,.0f}".format),
        "GFLOP/s, median": lambda run: cell(run["flops_per_second"], lambda value: f"{value / 1e9:,.1f}"),
        "share of the roof, median": lambda run: cell(run["mfu"], "{:.0%}".format),
        "a step, mean": lambda run: cell(run["phases"], lambda phases: f"{sum(phases.values()):.3g} s"),
    } | {label: partial(_phase_cell, name) for name, label in NAMES.items()}
    return known([(label, [show(run) for run in runs]) for label, show in rows.items()])


def _phase_cell(name: str, run: Mapping[str, Any]) -> str:
    return cell(run["phases"], lambda phases: f"{phases[name]:.2g} s ({phases[name] / sum(phases.values()):.0%})")


def as_markdown(facts: Mapping[str, Any], drawings: Sequence[Drawing]) -> str:
    """The page as Markdown, with links to the light figures.

    Args:
        facts: of `facts.gather`, or as read from report.json.
        drawings: of `figures.draw`.
    """
    return render(
        "distillkit.report", "report.md.jinja", facts=facts, drawings=by_section(drawings, SECTIONS),
        model_rows=model_table(facts), run_rows=run_table(facts), speed_rows=speed_table(facts),
        examples=[_example(example) for example in facts["examples"]],
    )  # fmt: skip


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    """A filled mask as a table: the text, a row a model, the places of the words."""
    rows = [
        (name, [f"{word['token']} {word['score']:.1%}" for word in words])
        for name, words in example["predictions"].items()
    ]
    return {"text": example["text"], "rows": rows, "places": [str(place + 1) for place in range(len(rows[0][1]))]}


def print_models(facts: Mapping[str, Any]) -> None:
    """Prints the main table and the notes to stdout."""
    print_rows(model_table(facts), list(facts["models"]), facts["notes"])
