"""Puts the figures of docs/figures/*.json into the README and the page on ALBERT, between their markers.

    python scripts/update_readme.py [--demo runs/demo] [--comparison runs/compare] [--benchmark runs/benchmark]
        [--ablation runs/demo_distilbert/sweeps/loss_weights] [--albert-sharing REPORT_DIR]

First records the report of a demo or of the runs of sweep=sharing, or the results of a comparison, a benchmark or a
sweep, in docs/figures/ where they are named.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit.comparison.tables import score_table
from distillkit.progress import duration
from distillkit.sweeps.tables import arm_table, difference_table, figure_name

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGES = (ROOT / "README.md", ROOT / "docs" / "how-to" / "albert.md")
QUALITY = {"mlm_loss": "{:.3f}", "top1": "{:.1%}", "agreement": "{:.1%}", "kl": "{:.3f}"}
FIGURE = "latency"
COLUMNS = {
    "layers": ("layers", "{}"),
    "unique_parameters": ("parameters, unique", "{:,}"),
    "nominal_parameters": ("nominal", "{:,}"),
    "disk_mb": ("MB on disk", "{:.0f}"),
    "latency_ms": ("latency, ms", "{:.1f}"),
    "mlm_loss": ("held-out MLM loss", "{:.3f}"),
    "top1": ("top-1", "{:.1%}"),
    "agreement": ("agreement", "{:.1%}"),
    "kl": ("KL", "{:.3f}"),
    "of_teacher": ("top-1 of the teacher's", "{:.0%}"),
    "sop_accuracy": ("sentence order", "{:.1%}"),
}
TITLES = "held-out MLM loss | top-1 | agreement with the teacher | KL to the teacher"


def record_demo(page: Path) -> None:
    """Copies what the README shows of a demo's report: its numbers without curves, and one figure in both themes.

    Args:
        page: the folder that `make demo` wrote its report to.
    """
    facts = json.loads((page / "report.json").read_text())
    for run in facts["runs"].values():
        del run["curves"]
    (FIGURES / "demo.json").write_text(json.dumps(facts, indent=1) + "\n")
    for picture in (page / "figures").glob(f"{FIGURE}*.png"):
        shutil.copy(picture, FIGURES / f"demo_{picture.name}")


def record_albert_sharing(page: Path) -> None:
    """Copies what the page on ALBERT shows of a report of sweep=sharing's runs: its models, by what they share.

    Args:
        page: the folder of `distillkit report`, over the folders of the sweep's arms.
    """
    facts = json.loads((page / "report.json").read_text())
    named = {name: ", ".join(re.findall(r"share-(\w+?)_embedding_size-(\d+)", name)[0]) for name in facts["runs"]}
    kept = {key: facts[key] for key in ("version", "date", "machine", "measured")}
    kept["models"] = {named.get(name, name): model for name, model in facts["models"].items()}
    fields = ("steps", "step", "seconds", "weights")
    kept["runs"] = {named[name]: {field: run[field] for field in fields} for name, run in facts["runs"].items()}
    (FIGURES / "albert_sharing.json").write_text(json.dumps(kept, indent=1) + "\n")


def record_comparison(page: Path) -> None:
    """Copies what the README shows of a comparison: its numbers without examples, and one figure in both themes.

    Args:
        page: the comparison's folder.
    """
    facts = json.loads((page / "results.json").read_text())
    del facts["command"]  # names folders of the machine
    for rows in facts["disagreements"].values():
        for row in rows.values():
            del row["examples"]
    (FIGURES / "comparison.json").write_text(json.dumps(facts, indent=1) + "\n")
    for picture in (page / "figures").glob(f"{FIGURE}*.png"):
        shutil.copy(picture, FIGURES / f"comparison_{picture.name}")


def record_benchmark(folder: Path) -> None:
    """Copies what the README shows of a benchmark: its figures, and the picture of one case in both themes.

    Args:
        folder: that scripts/benchmark.py wrote to.
    """
    facts = json.loads((folder / "benchmark.json").read_text())
    (FIGURES / "benchmark.json").write_text(json.dumps(facts, indent=1) + "\n")
    for picture in folder.glob(f"{_shown(facts)}_*.png"):
        shutil.copy(picture, FIGURES / picture.name.replace(_shown(facts), "benchmark"))


def record_ablation(sweep: Path) -> None:
    """Copies what the README shows of a sweep over the terms of the loss: its numbers without curves and folders.

    Args:
        sweep: the sweep's folder, with its report.
    """
    facts = json.loads((sweep / "sweep_results.json").read_text())
    del facts["curves"]
    for arm in facts["arms"]:
        del arm["command"]
    (FIGURES / "ablation.json").write_text(json.dumps(facts, indent=1) + "\n")


def _shown(facts: Mapping[str, Any]) -> str:
    """The name of the picture that the README shows: of the largest shape, with random lengths."""
    return f"benchmark_{'base' if 'base' in facts['step'] else next(iter(facts['step']))}_random_dropout_01"


def benchmark_table(facts: Mapping[str, Any]) -> str:
    """The steps of a benchmark with dropout 0.1, a contender a row, as Markdown; and how they were measured."""
    parts = []
    for shape, section in facts["step"].items():
        cases = [case for case in section["cases"] if case["dropout"] == 0.1]
        heads = [f"{case['batches']} ({case['fill']:.0%} real), tokens/s" for case in cases]
        lines = [f"| {shape} | {' | '.join(heads)} | peak MB |", f"|---|{'---:|' * (len(cases) + 1)}"]
        for name, title in section["titles"].items():
            cells = [_speed(case["contenders"][name]) for case in cases]
            peak = section["memory_mb"].get(name)
            lines.append(f"| {title} | {' | '.join(cells)} | {'-' if peak is None else f'{peak:,.0f}'} |")
        rounds, machine = ", ".join(str(case["rounds"]) for case in cases), section["machine"]
        roof = f"{section['roof']['bf16'] / 1e9:,.0f} GFLOP/s in bf16, {section['roof']['fp32'] / 1e9:,.0f} in fp32"
        how = (
            f"Real tokens a second, median and quartiles of {rounds} interleaved rounds; x: of the original in the same"
            f" round; %: of the best matrix product ({roof}). Dropout 0.1. {machine['threads']} threads"
            f" ({machine['cpu']})."
        )
        parts += [*lines, "", f"({how})", ""]
    return "\n".join(parts[:-1])


def _speed(row: Mapping[str, Any]) -> str:
    low, median, high = (f"{row['tokens_per_second'][key]:,.0f}" for key in ("low", "median", "high"))
    return f"{median} ({low}-{high}), {row['ratio']['median']:.1f}x, {row['of_roof']['bf16']:.0%}"


def comparison_table(facts: Mapping[str, Any]) -> str:
    """The scores of a comparison, one model a row, as Markdown; and how they came about."""
    head, rows = score_table(facts)
    lines = [f"| | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    data = "; ".join(
        f"{name}: {task['parts']['train']:,} rows, {task['epochs']} epochs, learning rate {task['lr']:g}, batches of"
        f" {task['batch_size']}, judged on {task['parts']['test']:,} by {' and '.join(task['metrics'])}"
        for name, task in facts["tasks"].items()
    )
    recipe, machine = facts["recipe"], facts["machine"]
    how = (
        f"Scores x 100, mean ± standard deviation over seeds {', '.join(map(str, recipe['seeds']))}. The same for every"
        f" model: {recipe['optimizer']}, {recipe['precision']}; {data}. {machine['cpus']} cores ({machine['cpu']})."
    )
    return "\n".join([*lines, "", f"({how})"])


def ablation_table(facts: Mapping[str, Any]) -> str:
    """The arms of a sweep, one a row, with their differences from the baseline, as Markdown; and how they were made."""
    arms, differences = arm_table(facts), difference_table(facts)
    assert differences is not None
    main, changes = next(iter(facts["metrics"])), dict(differences.rows)
    head = [*arms.head[1:], f"{figure_name(main)} against {facts['baseline']}"]
    lines = [f"| arm | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    for name, cells in arms.rows:
        lines.append(f"| {name} | {' | '.join([*cells[1:], changes[name][0] if name in changes else '-'])} |")
    steps = max(arm["step"] for arm in facts["arms"])
    seeds = ", ".join(map(str, facts["seeds"]))
    how = (
        f"{steps} steps an arm; mean ± standard deviation over seeds {seeds}; in brackets the 95% confidence interval"
        f" of the difference, paired by seed. `{facts['command']}`"
    )
    return "\n".join([*lines, "", f"({how})"])


def model_table(report: Mapping[str, Any]) -> str:
    """The models of a report's facts, one a row, as Markdown; and how long the runs took."""
    models, runs, machine = report["models"], report["runs"].values(), report["machine"]
    columns = {key: shown for key, shown in COLUMNS.items() if any(model.get(key) for model in models.values())}
    lines = [f"| | {' | '.join(label for label, _ in columns.values())} |", f"|---|{'---:|' * len(columns)}"]
    for name, model in models.items():
        cells = ["-" if model.get(key) is None else form.format(model[key]) for key, (_, form) in columns.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    seconds, steps = sum(run["seconds"] for run in runs), max(run["step"] for run in runs)
    how = f"{steps:,} steps each, {duration(seconds)} for {len(runs)} runs; {machine['cpus']} cores ({machine['cpu']})"
    return "\n".join([*lines, "", f"({how}; latency of one text of {report['measured']['length']} tokens.)"])


def albert_start_table(facts: Mapping[str, Any]) -> str:
    """Held-out MLM loss, and in brackets KL, of ways to start an ALBERT, one a row, after some steps, as Markdown."""
    steps = facts["runs"][0]["steps"]
    heads = ["layers share", "E", "seed", *(f"step {int(step):,}" for step in steps)]
    lines = [f"| start | {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 1)}"]
    for run in facts["runs"]:
        cells = [run["share"], str(run["embedding_size"]), str(run["seed"])]
        cells += [f"{found['mlm_loss']:.3f} ({found['kl']:.3f})" for found in run["steps"].values()]
        lines.append(f"| {run['start']} | {' | '.join(cells)} |")
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
    how = f"({control['steps']} steps, the whole held-out text; mean over seeds {seeds}, each in brackets.)"
    return "\n".join([*lines, f"| the teacher | {' | '.join(cells)} |", "", how])


def _over_seeds(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    values = [row[key] for row in rows]
    each = ", ".join(QUALITY[key].format(value) for value in values)
    return f"{QUALITY[key].format(statistics.fmean(values))} ({each})"


TABLES = {
    "demo": model_table, "control": control_table, "ablation": ablation_table, "comparison": comparison_table,
    "benchmark": benchmark_table, "albert start": albert_start_table, "albert sharing": model_table,
}  # fmt: skip


def filled(page: str) -> str:
    """A page's text with its tables as the JSON files have them."""
    for name, render in TABLES.items():
        file = FIGURES / f"{name.replace(' ', '_')}.json"
        if not file.is_file():  # measured now and then, on a quiet machine
            continue
        table = render(json.loads(file.read_text()))
        pattern = rf"(<!-- {name} table -->\n).*?(<!-- end -->)"
        page = re.sub(pattern, lambda m, table=table: f"{m[1]}\n{table}\n\n{m[2]}", page, flags=re.S)
    return page


RECORDS = {
    "demo": record_demo, "comparison": record_comparison, "benchmark": record_benchmark, "ablation": record_ablation,
    "albert_sharing": record_albert_sharing,
}  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in RECORDS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="DIR")
    given = vars(parser.parse_args())
    for name, record in RECORDS.items():
        if given[name]:
            record(given[name])
    for page in PAGES:
        page.write_text(filled(page.read_text()))
