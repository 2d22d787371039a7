"""Results of a comparison made by hand: a teacher, two students and a control on four tasks, three seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "bert": {"role": "teacher", "class": "BertForMaskedLM", "layers": 12, "unique_parameters": 109_514_298},
    "distilbert": {"role": "student", "class": "DistilBertForMaskedLM", "layers": 6, "unique_parameters": 66_985_530},
    "albert": {"role": "student", "class": "AlbertForMaskedLM", "layers": 12, "unique_parameters": 11_221_680},
    "control": {"role": "control", "class": "DistilBertForMaskedLM", "layers": 6, "unique_parameters": 66_985_530},
}
MADE = {"student": "distilled from bert", "control": "trained without a teacher"}
LATENCY = {"bert": 84.1, "distilbert": 42.6, "albert": 80.2, "control": 42.9}
SCORES = {
    "bert": {"sst2": 0.924, "wnut17": 0.461, "demo_imdb": 0.911, "squad": 0.882},
    "distilbert": {"sst2": 0.907, "wnut17": 0.402, "demo_imdb": 0.897, "squad": 0.858},
    "albert": {"sst2": 0.871, "wnut17": 0.331, "demo_imdb": 0.872, "squad": 0.774},
    "control": {"sst2": 0.874, "wnut17": 0.368, "demo_imdb": 0.881, "squad": 0.803},
}
KINDS = {"wnut17": ("tagging", ["f1"]), "squad": ("span", ["exact_match", "f1"])}
EXAMPLE = {
    "text": "This quiet thriller takes its time, and the ending pays for every minute of it. " * 4,
    "gold": "positive",
    "reference": "positive",
    "model": "negative",
}


def seeded(mean: float, seeds: Sequence[int], step: float = 0.003) -> dict[str, float]:
    """A value a seed around a mean."""
    return {str(seed): mean + step * (place - (len(seeds) - 1) / 2) for place, seed in enumerate(seeds)}


def entry(task: str, mean: float, seeds: Sequence[int], step: float = 0.003) -> dict[str, Any]:
    """A model's scores on a task."""
    values = seeded(mean, seeds, step)
    sd = statistics.stdev(values.values()) if len(values) > 1 else None
    metrics = {name: {"mean": mean, "sd": sd} for name in KINDS.get(task, ("", ["accuracy"]))[1]}
    parts = {"test": metrics} | ({"test_mismatched": metrics} if task == "mnli" else {})
    return {
        "mean": mean, "sd": sd, "seeds": values, "retained": None, "seconds": 312.4, "peak_memory_mb": 1500.2,
        "metrics": parts,
    }  # fmt: skip


def model(name: str, row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A model's figures; those of MODELS have the latency of LATENCY."""
    shared = 85_646_592 if row["class"].startswith("Albert") else 0
    training = {"seconds": 5400.0, "peak_memory_mb": 2100.4, "peak_gpu_memory_mb": None, "cost": 1.5,
                "steps": 2000, "tokens": 8_192_000, "corpus": "wikitext"}  # fmt: skip
    return {
        "source": f"runs/{name}", "made": MADE.get(row["role"]), "hidden_size": 768, **row,
        "nominal_parameters": row["unique_parameters"] + shared, "shared_on_disk": True,
        "disk_mb": row["unique_parameters"] * 4e-6, "latency_ms": LATENCY.get(name, 20.0 + number),
        "latency_p95_ms": 91.0, "latency_spread": 0.03,
        "throughput": {"32": 310.2, "128": 81.5, "384": 20.4},
        "flops_per_token": 171.3e6, "peak_memory_mb": 812.6,
        "training": training if row["role"] in ("student", "control") else None, "score": None, "retained": None,
        "speed_up": None, "compression": None,
    }  # fmt: skip


def task(name: str) -> dict[str, Any]:
    """A task's entry."""
    kind, metrics = KINDS.get(name, ("classification", ["accuracy"]))
    parts = {"train": 12_000, "test": 872} | ({"test_mismatched": 900} if name == "mnli" else {})
    return {
        "kind": kind, "metrics": metrics, "parts": parts, "max_length": 128, "epochs": 3, "steps": None,
        "batch_size": 32, "lr": 5e-5,
        "glue": name in ("sst2", "mnli", "cola", "mrpc", "qqp", "qnli", "rte", "wnli", "stsb"), "data": f"hub: {name}",
    }  # fmt: skip


def results(
    scores: Mapping[str, Mapping[str, float]] = SCORES,
    *,
    models: Mapping[str, Mapping[str, Any]] = MODELS,
    reference: str | None = "bert",
    seeds: Sequence[int] = (0, 1, 2),
    step: float = 0.003,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """results.json of models on tasks.

    Args: scores, model -> task -> mean, without the units that failed; models, in order; reference; seeds; step, by
    how much one seed differs from the next; tasks besides those of scores.
    """
    tasks = list(dict.fromkeys([*(name for row in scores.values() for name in row), *tasks]))
    rows = {name: model(name, row, number) for number, (name, row) in enumerate(models.items())}
    found = {name: {key: entry(key, mean, seeds, step) for key, mean in row.items()} for name, row in scores.items()}
    facts = {
        "version": "0.1.0", "date": "2026-01-31 12:00", "models": rows, "reference": reference,
        "machine": {"cpu": "A CPU", "cpus": 8, "threads": 2, "system": "Linux x86_64", "python": "3.11.9",
                    "torch": "2.11.0", "transformers": "5.17.0"},
        "command": ["compare", f"models=[{','.join(models)}]", f"tasks=[{','.join(tasks)}]"],
        "recipe": {"epochs": 3, "steps": None, "batch_size": 32, "optimizer": "AdamW", "lr": 5e-5, "weight_decay": 0.01,
                   "schedule": "linear", "warmup_steps": 0.1, "clip": 1.0, "precision": "bf16-mixed",
                   "seeds": list(seeds)},
        "tasks": {name: task(name) for name in tasks}, "scores": found, "averages": {}, "failed": [],
        "disagreements": {}, "measured": {"length": 128, "threads": 2, "batch": 1, "throughput_batch": 16},
        "price_per_hour": 1.0, "currency": "USD", "notes": [],
    }  # fmt: skip
    _relate(facts)
    return facts


def _relate(facts: dict[str, Any]) -> None:
    """Adds averages, what is measured against the reference, and disagreements with it."""
    models, tasks, reference = facts["models"], facts["tasks"], facts["reference"]
    for name, row in models.items():
        own = facts["scores"].get(name, {})
        row["score"] = statistics.fmean(own[task]["mean"] for task in tasks) if own.keys() == tasks.keys() else None
        glue = [task for task in tasks if tasks[task]["glue"]]
        mean = statistics.fmean(own[task]["mean"] for task in glue) if glue and {*glue} <= own.keys() else None
        facts["averages"][name] = {"all": row["score"], "glue": {"mean": mean, "tasks": len(glue)}}
    if reference is None:
        return
    base = models[reference]
    for row in models.values():
        row["speed_up"] = base["latency_ms"] / row["latency_ms"]
        row["compression"] = base["unique_parameters"] / row["unique_parameters"]
        if row["score"] is not None and base["score"]:
            row["retained"] = row["score"] / base["score"]
    differing = {"rows": 872, "differ": 0.083, "reference_right": 51, "model_right": 21, "examples": [EXAMPLE] * 2}
    for task in tasks:
        others = [name for name in facts["scores"] if name != reference and task in facts["scores"][name]]
        facts["disagreements"][task] = {name: differing for name in others}
