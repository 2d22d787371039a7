"""The tables of a comparison's page, as texts; a dash stands where nothing is known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from distillkit.comparison.ranking import average
from distillkit.evaluation.summary import counted, score_text, training_text
from distillkit.progress import duration
from distillkit.report.markup import Table, cell, known
from distillkit.report.page import MODEL_ROWS

GLUE = 9
"""Tasks of GLUE."""
WITH_SPREAD = 5
"""Most tasks whose spreads fit into a terminal."""


def parameters_text(count: int) -> str:
    """A number of parameters as a person says it: "66.4 M"; below a million in full."""
    return f"{count / 1e6:,.1f} M" if count >= 1e6 else f"{count:,}"


def times_text(value: float) -> str:
    """A ratio: "1.9x"."""
    return f"{value:.1f}x"


def money_text(value: float) -> str:
    """A sum with two decimals; of a small one its first two digits."""
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def score_table(facts: Mapping[str, Any]) -> Table:
    """The table of the papers: a model a row with its size, its speed-up, a score a task, their average.

    Args:
        facts: results.json.
    """
    tasks = list(facts["tasks"])
    glue = glue_tasks(facts)
    mean = _glue_heading(facts) if len(glue) > 1 and glue == tasks else "average"
    head = ["layers", "parameters", "speed-up", *tasks, mean, "retained"]
    rows = [
        (
            name,
            [
                cell(model["layers"], str),
                _sizes(model),
                cell(model["speed_up"], times_text),
                *_scores(facts, name, tasks),
                _average(facts, name, tasks),
                cell(model["retained"], "{:.1%}".format),
            ],
        )
        for name, model in facts["models"].items()
    ]
    return Table(head, rows)


def short_table(facts: Mapping[str, Any]) -> Table:
    """What a terminal shows: `score_table` with the latency in place of the speed-up, of many tasks the means alone."""
    head, rows = score_table(facts)
    latency = [cell(model["latency_ms"], "{:.1f} ms".format) for model in facts["models"].values()]
    place = head.index("speed-up")
    shown = [
        (name, [*cells[:place], own, *cells[place + 1 :]]) for (name, cells), own in zip(rows, latency, strict=True)
    ]
    if len(facts["tasks"]) > WITH_SPREAD:
        shown = [(name, [text.partition(" ±")[0] for text in cells]) for name, cells in shown]
    return Table([*head[:place], "latency", *head[place + 1 :]], shown)


def glue_tasks(facts: Mapping[str, Any]) -> list[str]:
    """The tasks of the comparison that are GLUE's."""
    return [name for name, task in facts["tasks"].items() if task["glue"]]


def glue_table(facts: Mapping[str, Any]) -> Table | None:
    """The GLUE tasks that ran and their average; None without several, and where `score_table` is it already."""
    tasks = glue_tasks(facts)
    if len(tasks) < 2 or tasks == list(facts["tasks"]):
        return None
    rows = [(name, [*_scores(facts, name, tasks), _average(facts, name, tasks)]) for name in facts["models"]]
    return Table([*tasks, _glue_heading(facts)], rows)


def metric_table(facts: Mapping[str, Any]) -> Table:
    """Every metric of every test set of every task, a model a column."""
    rows = []
    for task in facts["tasks"]:
        found = [facts["scores"].get(model, {}).get(task, {"metrics": {}})["metrics"] for model in facts["models"]]
        parts = list(dict.fromkeys(part for metrics in found for part in metrics))
        for part in parts:
            names = dict.fromkeys(name for metrics in found for name in metrics.get(part, {}))
            where = f", {_spaced(part)}" if len(parts) > 1 else ""
            rows += [
                (f"{task}: {_spaced(name)}{where}", [cell(each.get(part, {}).get(name), _form(name)) for each in found])
                for name in names
            ]
    return Table(list(facts["models"]), rows)


def efficiency_table(facts: Mapping[str, Any]) -> Table:
    """What models cost, one a column; rows of which nothing is known are left out."""
    costs = [_costs(facts, name) for name in facts["models"]]
    lengths = sorted({int(length) for model in facts["models"].values() for length in model["throughput"] or {}})
    forms: dict[str, tuple[str, Callable[[Any], str]]] = {
        "made": ("made", str),
        **{key: (label, form.format) for key, (label, form) in MODEL_ROWS.items()},
        **{f"throughput_{length}": (f"texts/s at {length} tokens", "{:,.1f}".format) for length in lengths},
        "flops_per_token": ("FLOPs a token, M", lambda value: f"{value / 1e6:,.1f}"),
        "compression": ("compression", times_text),
        "speed_up": ("speed-up", times_text),
        "training_steps": ("own training, steps", "{:,}".format),
        "training_tokens": ("own training, tokens", "{:,}".format),
        "training_seconds": ("own training, time", duration),
        "training_peak_memory_mb": ("own training, peak memory, MB", "{:,.0f}".format),
        "training_peak_gpu_memory_mb": ("own training, peak GPU memory, MB", "{:,.0f}".format),
        "training_cost": (f"own training, {facts['currency']}", money_text),
        "fine_tuning": ("fine-tuning, mean time of a task", duration),
        "fine_tuning_memory": ("fine-tuning, peak memory, MB", "{:,.0f}".format),
    }
    rows = [(label, [cell(model.get(key), show) for model in costs]) for key, (label, show) in forms.items()]
    return Table(list(facts["models"]), known(rows))


def disagreement_tables(facts: Mapping[str, Any]) -> dict[str, Table]:
    """Task -> how often each model and the reference answer differently, and who is right then."""
    head = ["rows", "differ", "reference right", "model right"]
    return {
        task: Table(
            head,
            [
                (
                    name,
                    [f"{entry['rows']:,}", f"{entry['differ']:.1%}"]
                    + [f"{entry[key]:,}" for key in ("reference_right", "model_right")],
                )
                for name, entry in entries.items()
            ],
        )
        for task, entries in facts["disagreements"].items()
        if entries
    }


def task_table(facts: Mapping[str, Any]) -> Table:
    """What each task is and how models were fine-tuned on it."""
    head = ["kind", "score", "rows", "tokens at most", "trained for", "batch", "learning rate", "data"]
    rows = [
        (
            name,
            [
                task["kind"],
                ", ".join(map(_spaced, task["metrics"])),
                ", ".join(f"{part} {rows:,}" for part, rows in task["parts"].items()),
                str(task["max_length"]),
                training_text(task),
                str(task["batch_size"]),
                f"{task['lr']:g}",
                task["data"],
            ],
        )
        for name, task in facts["tasks"].items()
    ]
    return Table(head, rows)


def recipe_table(facts: Mapping[str, Any]) -> Table:
    """The recipe, a setting a row."""

    def shown(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(map(shown, value))
        return f"{value:g}" if isinstance(value, float) else str(value)

    recipe = facts["recipe"]
    other = "steps" if recipe.get("steps") is None else "epochs"
    return Table(["value"], [(_spaced(key), [cell(recipe[key], shown)]) for key in recipe if key != other])


def _sizes(model: Mapping[str, Any]) -> str:
    own, nominal = model["unique_parameters"], model["nominal_parameters"]
    shared = f" ({parameters_text(nominal)})" if own and nominal and nominal > own else ""
    return cell(own, parameters_text) + shared


def _scores(facts: Mapping[str, Any], model: str, tasks: Iterable[str]) -> list[str]:
    found = facts["scores"].get(model, {})
    return [cell(found.get(task), lambda entry: _score(entry) + _fewer(facts, entry)) for task in tasks]


def _fewer(facts: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """How many seeds a score is the mean of, where some failed."""
    count = len(entry["seeds"])
    return "" if count == len(facts["recipe"]["seeds"]) else f" ({counted(count, 'seed')})"


def _form(metric: str) -> Callable[[Mapping[str, Any]], str]:
    """How a metric is shown: SQuAD v2's thresholds are differences of logits, not shares."""
    return _threshold if metric.endswith("_thresh") else _score


def _threshold(entry: Mapping[str, Any]) -> str:
    return f"{entry['mean']:.2f}" + ("" if entry["sd"] is None else f" ± {entry['sd']:.2f}")


def _score(entry: Mapping[str, Any]) -> str:
    return score_text(entry["mean"], entry["sd"])


def _average(facts: Mapping[str, Any], model: str, tasks: Collection[str]) -> str:
    return cell(average(facts["scores"].get(model, {}), tasks), lambda found: score_text(*found))


def _made(model: Mapping[str, Any]) -> str:
    """Where a model comes from."""
    return model["made"] or ("teacher" if model["role"] == "teacher" else model["source"])


def _glue_heading(facts: Mapping[str, Any]) -> str:
    return f"GLUE average ({len(glue_tasks(facts))} of {GLUE})"


def _costs(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A model's figures on one level."""
    model = facts["models"][name]
    entries = facts["scores"].get(name, {}).values()
    seconds = [entry["seconds"] for entry in entries if entry["seconds"] is not None]
    memory = [entry["peak_memory_mb"] for entry in entries if entry["peak_memory_mb"] is not None]
    return {
        **model,
        "made": _made(model),
        **{f"throughput_{length}": value for length, value in (model["throughput"] or {}).items()},
        **{f"training_{key}": value for key, value in (model["training"] or {}).items()},
        "fine_tuning": sum(seconds) / len(seconds) if seconds else None,
        "fine_tuning_memory": max(memory, default=None),
    }


def _spaced(name: str) -> str:
    return name.replace("_", " ")
