"""What can be said of a configuration or a model without training: the verbs info and evaluate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distillkit import building, config, machine, validation
from distillkit.evaluation.summary import describe_model, evaluate_side_by_side
from distillkit.phases import shares
from distillkit.probe import probe
from distillkit.progress import duration
from distillkit.rundir import CONFIG, STUDENT
from distillkit.teachers import check_positions, check_same_vocabulary, check_vocabulary, load_model, load_tokenizer


def inspect(cfg: dict[str, Any], *, measure: bool = True) -> dict[str, Any]:
    """Builds everything a run would, checks it, and says what it is and what it will take.

    Args:
        cfg: settled and validated.
        measure: also train a few steps, for `expected`.

    Returns:
        Plain values: teacher, student (sizes, layer_map, transfer), data (rows, tokens ...), run (steps per epoch,
        epochs, tokens per step, threads and memory settings), teacher_cache (size, free space, share of rows read),
        expected (`probe.probe`: time and memory) when measured.

    Raises:
        ConfigError, TeacherError, DataError: as train would.
    """
    machine.set_up(cfg["run"])
    parts = building.build(cfg)
    trainer = cfg["trainer"]
    ranks = building.ranks(cfg)
    plan = parts.data.plan(ranks, trainer["accumulate_grad_batches"])
    steps, epoch = building.total_steps(cfg, parts)
    report = parts.student.report.to_dict()
    facts = {
        "teacher": {"path": cfg["teacher"]["path"]} | describe_model(parts.teacher.model) if parts.teacher else None,
        "student": describe_model(parts.student.model)
        | {"transfer": report, "summary": parts.student.report.summary()},
        "data": parts.data.prepare().stats,
        "run": {
            "steps": steps,
            "steps_per_epoch": epoch,
            "epochs": round(steps / epoch, 3),
            "rows_dropped_per_epoch": plan.dropped_rows,
            "sequences_per_step": (cfg["data"]["batch_size"] or 0) * ranks * trainer["accumulate_grad_batches"] or None,
            **machine.settings(),
        },
    }
    facts["teacher_cache"] = _cache_facts(cfg, parts, steps / epoch)
    return facts | ({"expected": probe(cfg, parts)} if measure else {})


def _cache_facts(cfg: dict[str, Any], parts: building.Parts, epochs: float) -> dict[str, Any] | None:
    """Size, free space, and the share of the rows that this run alone would read; None without a cache."""
    cache = building.build_cache(cfg, parts, building.run_device(cfg))
    if cache is None:
        return None
    return cache.size(building.mask_epochs(cfg, parts)) | {
        "read_share": round(cache.room.read_share(epochs, cfg["data"]["mask_epochs"]), 4)
    }


def as_text(facts: dict[str, Any]) -> str:
    """`inspect`'s facts as lines a person reads."""
    lines = []
    for name in ("teacher", "student"):
        model = facts[name]
        if model is None:
            lines.append(f"{name}: none")
            continue
        parts = ", ".join(f"{part} {count:,}" for part, count in model["parts"].items())
        lines.append(
            f"{name}: {model['class']}, {model['layers']} layers of {model['hidden_size']},"
            f" {model['unique_parameters']:,} parameters ({parts}); {model['nominal_parameters']:,} nominal"
        )
    lines += _costs(facts["student"])
    lines += [f"  {line}" for line in facts["student"]["summary"]]
    for name in ("data", "run"):
        lines.append(f"{name}:")
        lines += [f"  {key}: {value}" for key, value in _flat(facts[name])]
    return "\n".join(lines + _cache_lines(facts["teacher_cache"]) + _expected(facts.get("expected")))


def _costs(student: dict[str, Any]) -> list[str]:
    """What the student takes on disk, and what sharing does not save."""
    part = student["shared_part"]
    copies = f", a copy for each layer of the {part} that all share" if part else ""
    lines = [f"  on disk: {4 * student['stored_parameters'] / 1e6:,.1f} MB in float32{copies}"]
    if student["nominal_parameters"] > student["unique_parameters"]:
        lines.append("  computes as much as the nominal parameters say: sharing saves parameters, not operations")
    return lines


def _cache_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    return [
        f"teacher cache: {found['folder']}",
        f"  size: {found['kept_mb']:,.0f} of {found['all_mb']:,.0f} MB ({found['bytes_per_token']:,} bytes a token),"
        f" {found['missing_mb']:,.0f} MB to be written, {found['free_mb']:,.0f} MB free",
        f"  rows read by this run alone: {found['read_share']:.0%}; by one after it with the same key:"
        f" {found['kept_mb'] / max(found['all_mb'], 1e-9):.0%}",
    ]


def _expected(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    gpu, title = found.get("peak_gpu_memory_mb"), "expected, from a few steps:"
    if found["out_of_memory"]:
        return [title, f"  the GPU's memory runs out beyond {gpu:,.0f} MB; lower data.batch_size or data.max_length"]
    roof, share = found["roof"], found["mfu"]
    return [
        title,
        f"  training: {duration(found['train_seconds'])} ({found['seconds_per_step']:.3g} s a step,"
        f" {found['tokens_per_second']:,.0f} tokens/s a process)",
        f"  of a step: {shares(found['phases'])}",
        f"  {found['advice']}",
        f"  roof: {roof['flops_per_second'] / 1e9:,.0f} GFLOP/s in {roof['dtype']}"
        + (f", of which a step reaches {share:.0%}" if share else ""),
        f"  evaluation: {duration(found['evaluation_seconds'])}",
        f"  memory: {found['peak_memory_mb']:,.0f} MB" + (f", on the GPU {gpu:,.0f} MB" if gpu else ""),
    ]


def _flat(node: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in node.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key} ")
        else:
            pairs.append((f"{prefix}{key}", _shown(value)))
    return pairs


def _shown(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else value


def evaluate(folders: list[str], composed: dict[str, Any] | None, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Held-out figures of runs' students and of models, with the teachers they are compared with.

    Args:
        folders: runs' or models' folders, or hub names of models.
        composed: evaluate.yaml with the overrides; needed for models, and for runs when a group is overridden.
        overrides: as typed; for a run they change its own configuration.

    Returns:
        name -> figures, in the order given, each teacher before its first student.

    Raises:
        TeacherError, DataError, ConfigError: what does not load or fit.
    """
    figures: dict[str, dict[str, Any]] = {}
    seen = set()
    for folder in folders:
        cfg = _evaluation_config(folder, composed, overrides)
        path = os.path.join(folder, STUDENT) if os.path.isfile(os.path.join(folder, CONFIG)) else folder
        model, tokenizer = load_model(path, key="MODEL_DIR"), load_tokenizer(path, key="MODEL_DIR")
        check_vocabulary(tokenizer, model, key="MODEL_DIR")
        check_positions(model, cfg["data"]["max_length"])
        teacher = building.build_teacher(cfg)
        if teacher is not None:
            check_same_vocabulary(tokenizer, load_tokenizer(cfg["teacher"]["path"]), key="MODEL_DIR")
        data = building.build_data(cfg, tokenizer)
        shown = (cfg["teacher"]["path"], data.prepare().key)
        models = {f"teacher {shown[0]}": teacher.model} if teacher is not None and shown not in seen else {}
        seen.add(shown)
        figures |= evaluate_side_by_side(
            models | {folder: model}, data, teacher=teacher, limit=cfg["run"]["evaluation_batches"],
            precision=cfg["trainer"]["precision"],
        )  # fmt: skip
    return figures


def _evaluation_config(folder: str, composed: dict[str, Any] | None, overrides: list[str]) -> dict[str, Any]:
    """A run's own configuration with the changes asked for; for a plain model the composed one."""
    if not os.path.isfile(os.path.join(folder, CONFIG)):
        assert composed is not None
        validation.validate_evaluation(composed)
        return composed
    import yaml

    own = config.completed(yaml.safe_load((Path(folder) / CONFIG).read_text()))
    chosen = {override.partition("=")[0] for override in overrides} & set(config.EVALUATION_GROUPS)
    own |= {group: composed[group] for group in chosen if composed is not None}
    rest = [override for override in overrides if override.partition("=")[0].partition(".")[0] not in chosen]
    changed = config.with_changes(own, rest)
    for key in (override.partition("=")[0] for override in rest):
        group, _, name = key.partition(".")
        if group == "data" and name in changed["data"]["corpus"]:  # a settled corpus has values of its own
            value = changed["data"][name]
            changed["data"]["corpus"][name] = config.absolute(value, key) if key in config.PATHS else value
    validation.validate_evaluation(changed)
    return changed
