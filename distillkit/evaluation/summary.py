"""Models side by side: size and held-out figures, as data and as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.markup import escape
from rich.table import Column, Table
from transformers import PreTrainedModel

from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.evaluation.intrinsic import evaluate_model, evaluate_pair
from distillkit.heads import has_order_head
from distillkit.objective import HiddenSource
from distillkit.progress import activity, results_console
from distillkit.sharing import SHARE, stored_parameters
from distillkit.students.counting import count_parameters
from distillkit.types import Batch

COLUMNS = {
    "unique_parameters": ("unique parameters", "{:,}"),
    "nominal_parameters": ("nominal parameters", "{:,}"),
    "mlm_loss": ("held-out MLM loss", "{:.3f}"),
    "perplexity": ("perplexity", "{:.1f}"),
    "top1": ("top-1", "{:.1%}"),
    "agreement": ("agreement", "{:.1%}"),
    "kl": ("KL", "{:.3f}"),
    "sop_accuracy": ("sentence order", "{:.1%}"),
}


_UNBOUNDED = 10_000  # characters, wider than any table


def score_text(mean: float, sd: float | None = None) -> str:
    """A share as papers print it: times 100, one decimal, and the standard deviation over seeds where there is one."""
    return f"{100 * mean:.1f}" if sd is None else f"{100 * mean:.1f} ± {100 * sd:.1f}"


def counted(number: float, noun: str) -> str:
    """A number with its noun: "1 epoch", "0.5 epochs", "1,000 steps"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else f'{noun}s'}"


def training_text(recipe: Mapping[str, Any]) -> str:
    """How long a fine-tuning is: "3 epochs", or "1,000 steps" where steps end it.

    Args:
        recipe: or a task, with "epochs" and "steps", of which one is None or missing.
    """
    return counted(recipe["epochs"], "epoch") if recipe.get("steps") is None else counted(recipe["steps"], "step")


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """Class and sizes of a model as plain values.

    Args:
        model: any masked-LM model.

    Returns:
        class, unique_parameters (distinct weights), nominal_parameters (as if no layer were shared),
        stored_parameters (in its folder), parts (unique parameters per part), shared_part ("attention" or "ffn" where
        all layers share it alone, which is stored for each of them; else None), layers, hidden_size, vocabulary.
    """
    count = count_parameters(model)
    return {
        "class": type(model).__name__,
        "unique_parameters": count.unique,
        "nominal_parameters": count.nominal,
        "stored_parameters": stored_parameters(model),
        "parts": count.parts,
        "shared_part": getattr(model.config, SHARE, None),
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "vocabulary": model.get_input_embeddings().weight.size(0),  # type: ignore[operator]
    }


def evaluate_side_by_side(
    models: Mapping[str, PreTrainedModel],
    data: MaskedLMDataModule,
    *,
    teacher: HiddenSource | None,
    limit: int | float | None = None,
    precision: str = "32-true",
    device: torch.device | None = None,
) -> dict[str, dict[str, Any]]:
    """Held-out figures and sizes of several models on the same fixed masks.

    Args:
        models: name -> masked-LM model; one may be the teacher's own.
        data: its held-out rows; without any only the sizes are given.
        teacher: what agreement and KL compare with; not reported for the teacher itself.
        limit: number (int) or share (float) of held-out micro-batches, None for all; as Lightning's.
        precision: "bf16-mixed" computes under autocast, anything else in the models' dtype.
        device: to compute on; None for a GPU where there is one.

    Returns:
        name -> describe_model and evaluate_model's figures.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if teacher is not None:
        teacher.to(device)
    figures = {name: describe_model(model) for name, model in models.items()}
    students = {name: model for name, model in models.items() if teacher is None or model is not teacher.model}
    of_teacher: dict[str, float] | None = None
    with torch.autocast(device.type, torch.bfloat16, enabled=str(precision) in ("bf16-mixed", "bf16")):
        for name, model in students.items():
            model.to(device)  # type: ignore[arg-type]
            order = has_order_head(model) and data.packing == "sentences"
            batches = _batches(data, limit, name, device)
            results, of_teacher = evaluate_pair(model, batches, teacher, with_order=order)
            figures[name] |= results
        for name in models.keys() - students.keys():
            if of_teacher is None:
                of_teacher = evaluate_model(models[name], _batches(data, limit, name, device))
            figures[name] |= of_teacher
    return figures


def _batches(data: MaskedLMDataModule, limit: int | float | None, name: str, device: torch.device) -> Iterator[Batch]:
    """The held-out batches on a device, with a line of how far they are."""
    loader = data.valid_stream()
    total = 0 if loader is None else limit_batches(limit, len(loader))
    with activity(f"evaluating {name}") as say:
        for done, batch in enumerate(itertools.islice(loader or [], total)):
            say(f"evaluating {name}: {done} of {total} batches")
            yield move(batch, device)


def limit_batches(limit: int | float | None, available: int) -> int:
    """How many of `available` batches Lightning's limit_val_batches stands for: a number, a share, or None for all."""
    return min(limit, available) if isinstance(limit, int) else int(available * (1.0 if limit is None else limit))


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on a device."""
    layout = batch.layout
    if layout is not None:
        places = {name: getattr(layout, name).to(device) for name in ("rows", "starts", "attended", "order")}
        layout = layout._replace(**places)
    return batch._replace(
        input_ids=batch.input_ids.to(device),
        attention_mask=None if batch.attention_mask is None else batch.attention_mask.to(device),
        labels=batch.labels.to(device),
        layout=layout,
        segments=None if batch.segments is None else batch.segments.to(device),
        swapped=None if batch.swapped is None else batch.swapped.to(device),
    )


def print_table(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints one row a model to stdout, or where that is too wide one row a figure; a dash for one that is missing."""
    shown = [column for column in COLUMNS if any(column in row for row in figures.values())]
    rows = [
        [name, *(COLUMNS[c][1].format(row[c]) if c in row else "-" for c in shown)] for name, row in figures.items()
    ]
    grid = [["model", *(COLUMNS[column][0] for column in shown)], *rows]
    console = results_console()
    table = _table(grid)
    if console.measure(table, options=console.options.update(width=_UNBOUNDED)).maximum > console.width:
        table = _table(list(zip(*grid, strict=True)))
    console.print(table)


def _table(grid: Sequence[Sequence[str]]) -> Table:
    """A table of cells, the first row its head. Names wrap where there is no room, numbers do not."""
    names, *columns = zip(*grid, strict=True)
    table = Table(Column(escape(names[0]), overflow="fold"))
    for head, *cells in columns:
        table.add_column(escape(head), justify="right", overflow="fold", min_width=max(map(len, cells)))
    for row in grid[1:]:
        table.add_row(*map(escape, row))
    return table
