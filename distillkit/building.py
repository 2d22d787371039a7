"""The parts of a run, built from a configuration: teacher, tokenizer, student, objective, data, module."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from distillkit.cached_rows import TRAIN, VALID
from distillkit.data.datamodule import MaskedLMDataModule
from distillkit.data.masking import VALID_SEED
from distillkit.data.plan import lesser_bound
from distillkit.errors import ConfigError, DistillkitError
from distillkit.objective import Objective
from distillkit.progress import activity
from distillkit.rowstore import RowStore
from distillkit.students.transfer import BuiltStudent
from distillkit.teacher_cache import CachedTeacher, identity
from distillkit.teachers import (
    Teacher,
    check_positions,
    check_same_vocabulary,
    check_vocabulary,
    load_model,
    load_tokenizer,
)
from distillkit.training.layers import check_compiler, compile_layers, recompute_layers
from distillkit.training.module import DistillationModule

CACHE_KEYS = ("cache", "cache_dtype", "cache_max_gb")
"""Keys under teacher that are not the teacher's own."""


@dataclass
class Parts:
    """What a configuration describes, built and checked.

    Attributes:
        teacher: None with teacher=none.
        tokenizer: of teacher and student.
        student: the model and the account of its weights.
        data: prepared: tokenized, packed, cached.
        objective: the weighted terms.
    """

    teacher: Teacher | None
    tokenizer: PreTrainedTokenizerFast
    student: BuiltStudent
    data: MaskedLMDataModule
    objective: Objective


def make(node: Any, *args: Any, **kwargs: Any) -> Any:
    """Hydra's instantiate, with errors that name the configuration instead of Hydra's internals.

    Args:
        node: plain values with a `_target_`.
        args, kwargs: added to its own.

    Raises:
        DistillkitError: as the target raised it; ConfigError for anything else it raised.
    """
    try:
        return instantiate(node, *args, **kwargs, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, DistillkitError):
            raise cause from None
        problem = str(cause or error).strip().splitlines()[0]
        raise ConfigError(problem, key="_target_", value=node["_target_"], fix="check its keys") from error


def build(cfg: dict[str, Any], teacher: Teacher | None = None) -> Parts:
    """Builds every part of a run and checks what only the loaded parts can tell. Cheap checks come first.

    Args:
        cfg: settled and validated.
        teacher: the configured one where it is loaded already.

    Returns:
        Parts.

    Raises:
        ConfigError, TeacherError, DataError: the first thing that does not fit.
    """
    if cfg["run"]["compile"]:
        with activity("trying the compiler"):
            check_compiler(run_device(cfg))
    with activity("loading the models"):
        teacher = teacher or build_teacher(cfg)
        tokenizer = build_tokenizer(cfg, teacher)
        if teacher is not None:
            check_positions(teacher.model, cfg["data"]["max_length"])
        student = build_student(cfg, teacher, tokenizer)
    objective = build_objective(cfg, student.model, teacher)
    data = build_data(cfg, tokenizer)
    with activity("reading and tokenizing the text"):
        data.plan(ranks(cfg), cfg["trainer"]["accumulate_grad_batches"])  # raises when too few rows make a step
    return Parts(teacher, tokenizer, student, data, objective)


def ranks(cfg: dict[str, Any]) -> int:
    """Processes of the run: trainer.devices as Lightning reads it (a number, a list, -1 or auto: all), x num_nodes."""
    trainer, devices = cfg["trainer"], cfg["trainer"]["devices"]
    if isinstance(devices, str) and "," in devices:
        devices = [part for part in devices.split(",") if part.strip()]
    if isinstance(devices, list):
        return len(devices) * trainer["num_nodes"]
    if str(devices) in ("auto", "-1"):
        devices = 1 if run_device(cfg).type == "cpu" else torch.cuda.device_count()
    return int(devices) * trainer["num_nodes"]


def run_device(cfg: dict[str, Any]) -> torch.device:
    """The kind of device that the run computes on: a GPU where there is one, unless the CPU is asked for."""
    on_gpu = cfg["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")


def total_steps(cfg: dict[str, Any], parts: Parts) -> tuple[int, int]:
    """Optimizer steps of the whole run, by trainer.max_steps or max_epochs, whichever is less; and of one epoch."""
    trainer = cfg["trainer"]
    epoch = parts.data.plan(ranks(cfg), trainer["accumulate_grad_batches"]).steps_per_epoch
    steps = lesser_bound(trainer["max_steps"], trainer["max_epochs"], epoch)
    assert steps is not None, "validate wants one of them"
    return steps, epoch


def build_teacher(cfg: dict[str, Any]) -> Teacher | None:
    """The frozen teacher, without its cache; None with teacher=none."""
    options = {name: value for name, value in cfg["teacher"].items() if name not in CACHE_KEYS}
    return make(options) if options["_target_"] else None


def build_cache(cfg: dict[str, Any], parts: Parts, device: torch.device) -> CachedTeacher | None:
    """The teacher with its states kept in teacher.cache; None where there is none. Nothing is written yet.

    Args:
        cfg: settled and validated.
        parts: built from it; `parts.teacher` stays as it is.
        device: the run computes on; part of the key.
    """
    options, teacher = cfg["teacher"], parts.teacher
    if teacher is None or not options.get("cache"):
        return None
    share = (ranks(cfg), cfg["trainer"]["accumulate_grad_batches"])
    common = identity(teacher, device, options["cache_dtype"]) | {
        "data": parts.data.prepare().key,
        # null as where the key is missing: states that were kept before a key was added stay of use
        "masking": {name: value for name, value in cfg["masking"].items() if value is not None},
        "autocast": str(cfg["trainer"]["precision"]) in ("bf16-mixed", "bf16"),
        "compile": cfg["run"]["compile"],
        "batches": [cfg["data"]["batch_size"], cfg["data"]["batch_tokens"], *share],
    }
    homes, seeds = parts.data.homes(*share), {TRAIN: cfg["seed"], VALID: VALID_SEED}
    stores = {name: RowStore(options["cache"], common | {"split": name, "seed": seeds[name]}) for name in homes}
    return CachedTeacher(teacher, homes, stores, dtype=options["cache_dtype"], max_gb=options["cache_max_gb"])


def mask_epochs(cfg: dict[str, Any], parts: Parts) -> int:
    """How many epochs of different masks the whole run sees."""
    steps, epoch = total_steps(cfg, parts)
    return min(-(-steps // epoch), cfg["data"]["mask_epochs"] or steps)


def build_tokenizer(cfg: dict[str, Any], teacher: Teacher | None) -> PreTrainedTokenizerFast:
    """The tokenizer of tokenizer.path, else the teacher's, else student.init_from's, checked against the teacher's."""
    path = cfg["tokenizer"]["path"] or cfg["teacher"]["path"] or cfg["student"]["init_from"]
    tokenizer = load_tokenizer(path, key="tokenizer.path" if cfg["tokenizer"]["path"] else "teacher.path")
    if teacher is not None:
        check_vocabulary(tokenizer, teacher.model, key="teacher.path")
        if path != cfg["teacher"]["path"]:
            own = load_tokenizer(cfg["teacher"]["path"], key="teacher.path")
            check_same_vocabulary(tokenizer, own, key="tokenizer.path")
    return tokenizer


def build_student(cfg: dict[str, Any], teacher: Teacher | None, tokenizer: PreTrainedTokenizerFast) -> BuiltStudent:
    """The student, from student.init_from, the teacher or nothing; fresh weights follow from the seed."""
    options = dict(cfg["student"])
    init_from = options.pop("init_from")
    options.pop("path", None)
    source = None if teacher is None else teacher.model
    if init_from:
        source = load_model(init_from, key="student.init_from", new_head=options.get("new_head", False))
        check_vocabulary(tokenizer, source, key="student.init_from")
        check_same_vocabulary(tokenizer, load_tokenizer(init_from, key="student.init_from"), key="student.init_from")
    torch.manual_seed(cfg["seed"])
    builder = make(options)
    _check_keys(builder)
    student = builder(source) if source is not None else builder(None, tokenizer=tokenizer)
    check_positions(student.model, cfg["data"]["max_length"])
    return student


def _check_keys(builder: partial[BuiltStudent]) -> None:
    """Refuses keys of student that its builder has none of: an experiment sets those of its own kind of student."""
    known = inspect.signature(builder.func).parameters
    unknown = [key for key in builder.keywords if key not in known]
    if unknown and all(parameter.kind is not parameter.VAR_KEYWORD for parameter in known.values()):
        raise ConfigError(
            "not a key of this kind of student", key=f"student.{unknown[0]}", value=builder.keywords[unknown[0]],
            fix="leave the experiment out, or add " + " ".join(f"~student.{key}" for key in unknown),
        )  # fmt: skip


def build_objective(cfg: dict[str, Any], student: PreTrainedModel, teacher: Teacher | None) -> Objective:
    """The weighted terms; without a teacher those that work without one."""
    terms = {name: make(term) for name, term in cfg["loss"]["terms"].items()}
    if teacher is None:
        terms = {name: term for name, term in terms.items() if not term.needs_teacher}
    width = None if teacher is None else teacher.hidden_size
    return Objective(terms, student_width=student.config.hidden_size, teacher_width=width)


def build_data(cfg: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> MaskedLMDataModule:
    """The data module over the configured corpus; nothing is read yet."""
    options = cfg["data"]
    names = ["max_length", "batch_size", "batch_tokens", "packing", "language", "mask_epochs"]
    names += ["num_workers", "num_proc", "cache_dir"]
    return MaskedLMDataModule(
        make(options["corpus"]),
        tokenizer,
        masker=make(cfg["masking"])(tokenizer),
        seed=cfg.get("seed", 0),
        **{name: options[name] for name in names},
    )


def build_module(
    cfg: dict[str, Any], parts: Parts, *, cache: CachedTeacher | None = None, roof: float | None = None
) -> DistillationModule:
    """The Lightning module over built parts, in the precision it trains in, its layers run as the configuration says.

    Lightning converts after a checkpoint is loaded, which would round a checkpoint in double precision.

    Args:
        cfg: settled and validated.
        parts: built from it.
        cache: takes the place of `parts.teacher`.
        roof: operations a second that the speed is a share of.
    """
    _set_layers(cfg, parts)
    dtypes = {"64": torch.float64, "64-true": torch.float64, "bf16-true": torch.bfloat16}
    module = DistillationModule(
        parts.student.model,
        parts.objective,
        teacher=cache or parts.teacher,
        optimizer=make(cfg["optimizer"]),
        scheduler=make(cfg["scheduler"]),
        seed=cfg["seed"],
        compiled=cfg["run"]["compile"],
        roof=roof,
    )
    return module.to(dtypes.get(str(cfg["trainer"]["precision"]), torch.float32))


def _set_layers(cfg: dict[str, Any], parts: Parts) -> None:
    """Compiles the layers of both models, and lets the student's be recomputed, where the configuration asks for it."""
    student, data = parts.student.model, cfg["data"]
    if cfg["run"]["compile"]:
        for model in (student, parts.teacher.model) if parts.teacher else (student,):
            compile_layers(model, changing_shapes=data["packing"] != "full")
    if cfg["run"]["gradient_checkpointing"]:
        recompute_layers(student)
