"""Checks a settled configuration before anything heavy is imported or loaded."""

from __future__ import annotations

import math
import re
from typing import Any

from distillkit.albert_shape import check_scratch, check_shape
from distillkit.errors import ConfigError
from distillkit.licenses import check_license
from distillkit.redaction import check_no_secret
from distillkit.rules import check_limit, check_metric, check_number
from distillkit.targets import check_targets

PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "64-true", "64", "bf16-true")
CACHE_DTYPES = ("bfloat16", "int8", "float32")
_TASK_COUNTS = ("max_length", "epochs", "batch_size", "train_rows", "test_rows")


def validate(cfg: dict[str, Any]) -> None:
    """Checks every value and cross-field rule that can be checked without loading anything.

    Args:
        cfg: from `settle`.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg)
    check_no_secret(cfg)
    check_number(cfg, "seed", low=0, integer=True)
    _validate_run(cfg["run"])
    _validate_loss(cfg)
    _validate_sources(cfg)
    _validate_masking(cfg)
    for key, high in (("data.valid_fraction", 1), ("optimizer.lr", math.inf)):
        check_number(cfg, key, low=0, high=high, open_ends=True)
    for key in ("scheduler.warmup_steps", "optimizer.weight_decay", "optimizer.eps"):
        check_number(cfg, key, low=0)
    for key in ("checkpoint.every_n_steps", "checkpoint.keep_last", "trainer.accumulate_grad_batches",
                "trainer.log_every_n_steps", "trainer.num_nodes", "data.batch_size", "data.batch_tokens",
                "data.mask_epochs"):  # fmt: skip
        check_number(cfg, key, low=1, integer=True, optional=key.startswith("data."))
    for key in ("data.num_proc", "student.num_layers"):
        check_number(cfg, key, low=1, integer=True, optional=True)
    _validate_cache(cfg)
    check_number(cfg, "data.max_length", low=8, integer=True)
    check_number(cfg, "data.num_workers", low=0, integer=True)
    check_number(cfg, "run.threads", low=1, integer=True, optional=True, fix="set run.threads=null")
    check_number(cfg, "trainer.val_check_interval", low=0, open_ends="low", fix="set trainer.val_check_interval=1.0")
    _validate_trainer(cfg["trainer"])
    check_limit(cfg, "run", "evaluation_batches", low=1)
    check_limit(cfg, "trainer", "limit_val_batches", low=0)
    check_metric(cfg, "checkpoint", "monitor")
    if (limit := cfg["trainer"]["limit_train_batches"]) is not None:  # the plan serves the run as one epoch
        raise ConfigError("would take the same batches again and again", key="trainer.limit_train_batches", value=limit,
                          allowed="null", fix="set trainer.max_steps")  # fmt: skip


def validate_evaluation(cfg: dict[str, Any]) -> None:
    """As `validate`, for the measuring of models on held-out rows.

    Args:
        cfg: a run's, or evaluate.yaml's from `settle`. Beside a run only a part of the latter counts: then it is not
            checked by itself.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg)
    _validate_corpus(cfg["data"])
    check_limit(cfg, "run", "evaluation_batches", low=1)


def validate_comparison(cfg: dict[str, Any]) -> None:
    """As `validate`, for a comparison.

    Args:
        cfg: compare.yaml's, from `settle`.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg)
    for key, example in (("models", "[demo,RUN_DIR]"), ("tasks", "[sst2]"), ("seeds", "[0,1,2]")):
        values = cfg[key]
        if not isinstance(values, list) or not values or len({str(value) for value in values}) < len(values):
            raise ConfigError("a list without repetitions is needed", key=key, value=values, fix=f"set {key}={example}")
    if set(cfg["tasks"]) != set(cfg["task"]):
        raise ConfigError("its tasks were not composed", key="tasks", value=cfg["tasks"], fix="write tasks=[...]")
    if not all(isinstance(seed, int) and seed >= 0 for seed in cfg["seeds"]):
        raise ConfigError("must be whole numbers", key="seeds", value=cfg["seeds"], allowed=">= 0")
    tasks = [f"task.{name}" for name in cfg["task"]]
    for key in ("batch_size", "run.jobs", *(f"{task}.{name}" for task in tasks for name in _TASK_COUNTS)):
        check_number(cfg, key, low=1, integer=True, optional=key.startswith("task."))
    for key in ("optimizer.lr", "price_per_hour", *(f"{task}.lr" for task in tasks)):
        check_number(cfg, key, low=0, open_ends="low", optional=key != "optimizer.lr")
    for key in ("scheduler.warmup_steps", "optimizer.weight_decay", "optimizer.eps"):
        check_number(cfg, key, low=0)
    _validate_trainer(cfg["trainer"])
    if cfg["trainer"]["devices"] not in (1, "1", "auto"):
        raise ConfigError("a fine-tuning takes one device", key="trainer.devices", value=cfg["trainer"]["devices"],
                          allowed="1", fix="set run.jobs for several at once")  # fmt: skip


def validate_sweep(cfg: dict[str, Any]) -> None:
    """As `validate`, for a sweep; its arms are checked as the runs they are.

    Args:
        cfg: sweep.yaml's, from `settle`.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg | {"run": cfg["run"] | {"trusted_modules": []}})
    sweep = cfg["sweep"]
    for key, allowed in (("method", ("grid", "random", "tpe")), ("pruner", (None, "median", "asha"))):
        if sweep[key] not in allowed:
            raise ConfigError("no such choice", key=f"sweep.{key}", value=sweep[key],
                              allowed=", ".join("null" if name is None else name for name in allowed))  # fmt: skip
    for key, kind in (("arms", dict), ("vary", dict), ("base", list)):
        if not isinstance(sweep[key], kind):
            raise ConfigError(f"must be a {_KINDS[kind]}", key=f"sweep.{key}", value=sweep[key])
    check_metric(cfg, "sweep", "metric")
    check_number(cfg, "sweep.max_hours", low=0, open_ends="low", optional=True)
    for key in ("max_steps", "trials"):
        check_number(cfg, f"sweep.{key}", low=1, integer=True, optional=True)
    if not isinstance(sweep["share_cache"], bool):
        raise ConfigError("must be a switch", key="sweep.share_cache", value=sweep["share_cache"],
                          allowed="true, false")  # fmt: skip
    shared = sweep["shared_pass"]
    if not (isinstance(shared, bool) or (isinstance(shared, int) and shared >= 2)):
        raise ConfigError("must be a switch, or a number of arms", key="sweep.shared_pass", value=shared,
                          allowed="true, false, >= 2")  # fmt: skip
    if shared and sweep["method"] != "grid":
        raise ConfigError("the arms of a search are drawn one by one, and share no pass", key="sweep.shared_pass",
                          value=shared, allowed="false", fix="set sweep.share_cache=true")  # fmt: skip
    if "seed" in sweep["vary"]:
        raise ConfigError("seeds have a key of their own", key="sweep.vary", value="seed", fix="set sweep.seeds")
    if sweep["method"] != "grid" and not sweep["trials"]:
        raise ConfigError("how many trials", key="sweep.trials", value=None, allowed="> 0", fix="set sweep.trials=20")


def validate_tokenizer(cfg: dict[str, Any]) -> None:
    """As `validate`, for a tokenizer; what it is to be is checked where it is trained.

    Args:
        cfg: tokenizer.yaml's, from `settle`.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg)
    _validate_corpus(cfg["data"])


_KINDS = {dict: "mapping", list: "list of train's overrides"}


def _validate_run(run: dict[str, Any]) -> None:
    if not re.fullmatch(r"[\w-]{1,64}", str(run["id"])):  # becomes a folder's name
        raise ConfigError("not an id", key="run.id", value=run["id"], allowed="1 to 64 letters, digits, - and _")
    check_license(run["license"], key="run.license")
    for name in ("compile", "gradient_checkpointing", "keep_freed_memory"):
        if not isinstance(run[name], bool):
            raise ConfigError("must be a switch", key=f"run.{name}", value=run[name], allowed="true, false")


def _validate_loss(cfg: dict[str, Any]) -> None:
    loss = cfg["loss"]
    for name in ("alpha", "beta", "gamma", "sop"):
        check_number(cfg, f"loss.{name}", low=0)
    check_number(cfg, "loss.temperature", low=0, high=100, open_ends="low", fix="set loss.temperature=2.0")
    if loss["positions"] not in ("all", "predicted"):
        raise ConfigError("no such choice", key="loss.positions", value=loss["positions"], allowed="all, predicted")
    _validate_order(cfg)
    weights = {name: term["weight"] for name, term in loss["terms"].items()}
    if not any(weights.values()):
        raise ConfigError(
            "every weight is 0, nothing to train on", key="loss.alpha,loss.beta,loss.gamma", value="0,0,0",
            allowed="at least one > 0", fix="set loss.beta=2.0",
        )  # fmt: skip


def _validate_order(cfg: dict[str, Any]) -> None:
    """What sentence-order prediction needs; runs begun before it have no such key."""
    sop, packing = cfg["loss"].get("sop", 0), cfg["data"]["packing"]
    if sop and packing != "sentences":
        raise ConfigError(
            f"sentence order needs rows of two segments, not data.packing={packing}", key="loss.sop", value=sop,
            allowed="0 with these rows", fix="set data.packing=sentences",
        )  # fmt: skip
    if sop and "sop" not in cfg["student"]:
        raise ConfigError(
            "this student has no head for sentence order", key="loss.sop", value=sop, allowed="0 with this student",
            fix="set student=albert, or loss.sop=0",
        )  # fmt: skip


def _validate_sources(cfg: dict[str, Any]) -> None:
    teacher, student, loss = cfg["teacher"], cfg["student"], cfg["loss"]
    if teacher["_target_"] is not None and not teacher["path"]:
        raise ConfigError(
            "no teacher is given", key="teacher.path", value=None, allowed="a folder, a hub name, demo",
            fix="set teacher.path=FOLDER, or choose teacher=demo or teacher=none",
        )  # fmt: skip
    if teacher["_target_"] is None and teacher["path"]:
        raise ConfigError(
            "teacher=none has no path", key="teacher.path", value=teacher["path"], fix="drop teacher=none"
        )
    if "share" in student:
        check_shape(student)
    if teacher["_target_"] is None and not student["init_from"]:
        check_scratch(student, cfg["tokenizer"]["path"])
    if teacher["_target_"] is None and not (loss["beta"] or loss.get("sop")):
        raise ConfigError("without a teacher only MLM and sentence order are left", key="loss.beta", value=0,
                          allowed="> 0, or loss.sop > 0")  # fmt: skip
    if "path" in student and not student["path"]:
        raise ConfigError("no run is given", key="student.path", value=None, fix="set student.path=RUN_DIR")
    _validate_corpus(cfg["data"])


def _validate_corpus(data: dict[str, Any]) -> None:
    for key, example in (("path", "'*.txt'"), ("name", "wikitext")):
        if key in data and not data[key]:
            raise ConfigError("no corpus is given", key=f"data.{key}", value=None, fix=f"set data.{key}={example}")


def _validate_masking(cfg: dict[str, Any]) -> None:
    masking = cfg["masking"]
    check_number(cfg, "masking.probability", low=0, high=1, open_ends=True)
    for name in ("mask_fraction", "random_fraction"):
        check_number(cfg, f"masking.{name}", low=0, high=1)
    masked, random = masking.get("mask_fraction", 0), masking.get("random_fraction", 0)
    if masked + random > 1 + 1e-9:  # 0.8 + 0.2 in binary
        raise ConfigError("more than all predictions with masking.mask_fraction", key="masking.random_fraction",
                          value=random, allowed=f"[0, {1 - masked:g}]")  # fmt: skip
    check_number(cfg, "masking.smoothing", low=0, optional=True, fix="set masking.smoothing=0.7, or null")
    for name, fix in (("max_predictions", "null"), ("max_ngram", "3")):
        check_number(
            cfg, f"masking.{name}", low=1, integer=True, optional=fix == "null", fix=f"set masking.{name}={fix}"
        )


def _validate_cache(cfg: dict[str, Any]) -> None:
    teacher = cfg["teacher"]
    if not teacher["cache"]:
        return
    if teacher["_target_"] is None:
        raise ConfigError("there is no teacher whose states could be kept", key="teacher.cache", value=teacher["cache"],
                          fix="drop it, or choose a teacher")  # fmt: skip
    if teacher["cache_dtype"] not in CACHE_DTYPES:
        raise ConfigError("no such dtype", key="teacher.cache_dtype", value=teacher["cache_dtype"],
                          allowed=", ".join(CACHE_DTYPES))  # fmt: skip
    check_number(cfg, "teacher.cache_max_gb", low=0, open_ends="low", fix="set teacher.cache_max_gb=50")


def _validate_trainer(trainer: dict[str, Any]) -> None:
    steps, epochs = trainer["max_steps"], trainer["max_epochs"]
    if not isinstance(steps, int) or steps < -1 or steps == 0 or (steps == -1 and not epochs):
        raise ConfigError(
            "how long to train", key="trainer.max_steps", value=steps,
            allowed="> 0, or -1 with trainer.max_epochs", fix="set trainer.max_steps=1000",
        )  # fmt: skip
    if epochs is not None and not (isinstance(epochs, int) and epochs > 0):
        raise ConfigError("must be a positive whole number", key="trainer.max_epochs", value=epochs, allowed="> 0")
    devices = trainer["devices"]
    listed = isinstance(devices, list) and all(isinstance(number, int) for number in devices)
    if not (devices and (listed or re.fullmatch(r"auto|-1|[1-9]\d*|\d+(, ?\d+)+|\d+,", str(devices)))):
        raise ConfigError("how many processes, or which GPUs", key="trainer.devices", value=devices,
                          allowed="auto, -1, >= 1, a list of GPUs", fix="set trainer.devices=auto")  # fmt: skip
    if str(trainer["precision"]) not in PRECISIONS:
        raise ConfigError(
            "not supported", key="trainer.precision", value=trainer["precision"], allowed=", ".join(PRECISIONS),
            fix="set trainer.precision=bf16-mixed",
        )  # fmt: skip


CHECKS = {
    "train": validate,
    "compare": validate_comparison,
    "sweep": validate_sweep,
    "tokenizer": validate_tokenizer,
}
"""The check of each composed file; `check_targets` for the others."""
