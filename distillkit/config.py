"""Composes a configuration with Hydra and checks it, before anything heavy is imported or loaded."""

from __future__ import annotations

import copy
import difflib
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from distillkit.errors import ConfigError

PRECISIONS = ("32-true", "32", "bf16-mixed", "bf16", "64-true", "64", "bf16-true")
_TARGETS = (
    "distillkit.",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.strategies.",
    "pytorch_lightning.profilers.",
    "torch.optim.",
    "transformers.get_",
)
_PATHS = ("teacher.path", "tokenizer.path", "student.init_from", "student.path", "data.path", "data.valid_path",
          "data.cache_dir", "run.dir")  # fmt: skip


def conf_dir() -> Path:
    """The folder of configuration files: the wheel's, or the checkout's for an editable install.

    Raises:
        ConfigError: neither is there.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parent / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise ConfigError("the configuration files are missing from the installation", fix="reinstall distillkit")


def load(name: str, overrides: Sequence[str], config_dir: str | None = None) -> tuple[DictConfig, DictConfig]:
    """Composes conf/<name>.yaml with overrides.

    Args:
        name: "train" or "evaluate".
        overrides: in Hydra's grammar.
        config_dir: a folder of the user's own files that adds to the groups.

    Returns:
        The configuration, and Hydra's own node (choices and overrides).

    Raises:
        ConfigError: an override that does not parse, an unknown key or group, with the nearest that exists.
    """
    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), job_name="distillkit", version_base="1.3"):
            cfg = compose(name, [*overrides, *search], return_hydra_config=True)
    except OverrideParseException as error:
        key, _, value = error.override.partition("=")
        raise ConfigError(
            "not in Hydra's grammar", key=key, value=value, fix=f"quote it: '{key}=\"{value}\"'"
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise _composition_error(error, name, overrides) from None
    OmegaConf.set_struct(cfg, False)
    hydra = cfg.pop("hydra")
    OmegaConf.set_struct(cfg, True)
    return cfg, hydra


def _composition_error(error: Exception, name: str, overrides: Sequence[str]) -> ConfigError:
    """One line for a composition that failed, with the nearest existing key or option."""
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    groups = {p.name: sorted(f.stem for f in p.glob("*.yaml")) for p in conf_dir().iterdir() if p.is_dir()}
    known = set(groups) | set(keys(name, [o for o in overrides if o.partition("=")[0].split("@")[0] in groups]))
    for key, _, value in pairs:
        if key in groups and value not in groups[key] and value != "null":
            near = _nearest(value, groups[key])
            path = f"; a folder goes to {key}.path" if "/" in value or value == "" else ""
            return ConfigError(
                f"no such choice{path}",
                key=key,
                value=value,
                allowed=", ".join(groups[key]),
                fix=f"did you mean {key}={near}?" if near else None,
            )
    for key, _, value in pairs:
        if key not in known:
            near = _nearest(key, known)
            return ConfigError(
                "no such key",
                key=key,
                value=value,
                fix=f"did you mean {near}?" if near else "see distillkit train --cfg job",
            )
    return ConfigError(str(error).splitlines()[0])


def _nearest(word: str, known: Sequence[str] | set[str]) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None


def keys(name: str, overrides: Sequence[str]) -> list[str]:
    """Every dotted key of a composition.

    Args:
        name: "train" or "evaluate".
        overrides: group choices; when they fail themselves, the keys are those of the defaults.
    """
    for chosen in (overrides, ()):
        try:
            with initialize_config_dir(str(conf_dir()), job_name="distillkit", version_base="1.3"):
                return [key for key, _ in _leaves(compose(name, list(chosen)), leaves_only=False)]
        except (ConfigCompositionException, HydraException, OmegaConfBaseException):
            continue
    return []


def _leaves(node: Any, prefix: str = "", leaves_only: bool = True) -> Iterator[tuple[str, Any]]:
    """(dotted key, raw value) of a mapping, depth first."""
    plain: Any = OmegaConf.to_container(node) if isinstance(node, DictConfig) else node
    for key, value in plain.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, dict):
            if not leaves_only:
                yield dotted, value
            yield from _leaves(value, f"{dotted}.", leaves_only)
        else:
            yield dotted, value


def settle(cfg: DictConfig, hydra: DictConfig) -> dict[str, Any]:
    """The configuration as a plain, resolved mapping with its folder chosen and its paths made absolute.

    Args:
        cfg: as composed.
        hydra: Hydra's node; its choice of experiment names the folder.

    Returns:
        Nested dicts and lists of plain values, as written to config.yaml.

    Raises:
        ConfigError: a value that cannot be resolved.
    """
    if "run" in cfg and "dir" in cfg.run and cfg.run.dir is None:
        name = hydra.runtime.choices.get("experiment") or "train"
        if is_first_rank():  # the other ranks compose again, seconds later: they must come to the same folder
            os.environ["DISTILLKIT_RUN_DIR"] = f"runs/{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        cfg.run.dir = os.environ["DISTILLKIT_RUN_DIR"]
    for key in _PATHS:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            OmegaConf.update(
                cfg, key, _absolute(OmegaConf.to_object(value) if OmegaConf.is_list(value) else value, key)
            )
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def is_first_rank() -> bool:
    """Whether this process owns lock, folders and reports: no launcher has given it another rank than 0."""
    ranks = ("RANK",) if "RANK" in os.environ else ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def _absolute(value: Any, key: str) -> Any:
    if isinstance(value, list):
        return [_absolute(v, key) for v in value]
    if "," in str(value) and key in ("data.path", "data.valid_path") and not os.path.exists(str(value)):
        return [_absolute(part.strip(), key) for part in str(value).split(",")]
    path = os.path.expanduser(str(value))
    may_be_a_name = key in ("teacher.path", "tokenizer.path", "student.init_from")
    return os.path.abspath(path) if not may_be_a_name or os.path.exists(path) else value


def validate(cfg: dict[str, Any]) -> None:
    """Checks every value and cross-field rule that can be checked without loading anything.

    Args:
        cfg: from `settle`.

    Raises:
        ConfigError: the first rule that does not hold.
    """
    check_targets(cfg)
    _number(cfg, "seed", low=0, integer=True)
    _validate_loss(cfg)
    _validate_sources(cfg)
    for key, high in (("masking.probability", 1), ("data.valid_fraction", 1), ("optimizer.lr", math.inf)):
        _number(cfg, key, low=0, high=high, open_ends=True)
    for key in ("masking.mask_fraction", "masking.random_fraction"):
        _number(cfg, key, low=0, high=1)
    for key in ("scheduler.warmup_steps", "optimizer.weight_decay", "optimizer.eps"):
        _number(cfg, key, low=0)
    for key in ("checkpoint.every_n_steps", "checkpoint.keep_last", "trainer.accumulate_grad_batches",
                "trainer.log_every_n_steps", "data.batch_size", "data.batch_tokens"):  # fmt: skip
        _number(cfg, key, low=1, integer=True, optional=key.startswith("data."))
    _number(cfg, "data.max_length", low=8, integer=True)
    _number(cfg, "data.num_workers", low=0, integer=True)
    _validate_trainer(cfg["trainer"])


def _validate_loss(cfg: dict[str, Any]) -> None:
    loss = cfg["loss"]
    for name in ("alpha", "beta", "gamma"):
        _number(cfg, f"loss.{name}", low=0)
    _number(cfg, "loss.temperature", low=0, high=100, open_ends="low", fix="set loss.temperature=2.0")
    if loss["positions"] not in ("all", "predicted"):
        raise ConfigError("no such choice", key="loss.positions", value=loss["positions"], allowed="all, predicted")
    weights = {name: term["weight"] for name, term in loss["terms"].items()}
    if not any(weights.values()):
        raise ConfigError(
            "every weight is 0, nothing to train on", key="loss.alpha,loss.beta,loss.gamma", value="0,0,0",
            allowed="at least one > 0", fix="set loss.beta=2.0",
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
    if teacher["_target_"] is None and not student["init_from"]:
        raise ConfigError(
            "without a teacher the student needs initial weights", key="student.init_from", value=None,
            allowed="a folder, a hub name, demo", fix="set student.init_from=FOLDER",
        )  # fmt: skip
    if teacher["_target_"] is None and not loss["beta"]:
        raise ConfigError("without a teacher only the MLM loss is left", key="loss.beta", value=0, allowed="> 0")
    if "path" in cfg["data"] and not cfg["data"]["path"]:
        raise ConfigError("no corpus is given", key="data.path", value=None, fix="set data.path='*.txt' or data=demo")


def _validate_trainer(trainer: dict[str, Any]) -> None:
    steps, epochs = trainer["max_steps"], trainer["max_epochs"]
    if not isinstance(steps, int) or steps < -1 or steps == 0 or (steps == -1 and not epochs):
        raise ConfigError(
            "how long to train", key="trainer.max_steps", value=steps,
            allowed="> 0, or -1 with trainer.max_epochs", fix="set trainer.max_steps=1000",
        )  # fmt: skip
    if epochs is not None and not (isinstance(epochs, int) and epochs > 0):
        raise ConfigError("must be a positive whole number", key="trainer.max_epochs", value=epochs, allowed="> 0")
    if str(trainer["precision"]) not in PRECISIONS:
        raise ConfigError(
            "not supported", key="trainer.precision", value=trainer["precision"], allowed=", ".join(PRECISIONS),
            fix="set trainer.precision=bf16-mixed",
        )  # fmt: skip


def _number(
    cfg: dict[str, Any],
    key: str,
    *,
    low: float,
    high: float = math.inf,
    open_ends: bool | str = False,
    integer: bool = False,
    optional: bool = False,
    fix: str | None = None,
) -> None:
    value: Any = cfg
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return  # an optimizer or schedule of the user's own need not have it
        value = value[part]
    if value is None and optional:
        return
    low_open, high_open = bool(open_ends), open_ends is True or high == math.inf
    text = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
    right_type = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    inside = (
        right_type and (low < value if low_open else low <= value) and (value < high if high_open else value <= high)
    )
    if not inside:
        kind = "whole number" if integer else "number"
        raise ConfigError(f"must be a {kind} in the allowed range", key=key, value=value, allowed=text, fix=fix)


def check_targets(cfg: dict[str, Any]) -> None:
    """Refuses a `_target_` outside distillkit and the named parts of its libraries: Hydra would call anything.

    Args:
        cfg: nested plain values; `run.trusted_modules` lets a user's own packages in.

    Raises:
        ConfigError: naming the target and how to allow it.
    """
    trusted = tuple(f"{name}." for name in cfg["run"]["trusted_modules"])
    for key, value in _targets(cfg):
        if not value.startswith(_TARGETS + trusted):
            raise ConfigError(
                "not a class that a configuration may name", key=key, value=value, allowed=", ".join(_TARGETS),
                fix=f"if it is your own code: run.trusted_modules=[{value.partition('.')[0]}]",
            )  # fmt: skip


def _targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "_target_" and value is not None:
                yield key, str(value)
            yield from _targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _targets(value, f"{key}[{index}]")


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for every value that differs between two settled configurations."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def with_changes(cfg: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a settled configuration with `key=value` changes; values are read as YAML.

    Raises:
        ConfigError: not of that form, or an unknown key.
    """
    changed = copy.deepcopy(cfg)
    known = [key for key, _ in _leaves(cfg)]
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in known:
            near = _nearest(key, known)
            raise ConfigError("no such key", key=key, value=text, fix=f"did you mean {near}?" if near else None)
        *parents, last = key.split(".")
        node = changed
        for name in parents:
            node = node[name]
        node[last] = yaml.safe_load(text)
    return changed


def relocated(node: Any, old: str, new: str) -> Any:
    """The configuration with every path below folder `old` put below `new`: a run's folder may be moved."""
    if isinstance(node, dict):
        return {key: relocated(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [relocated(value, old, new) for value in node]
    inside = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return new + node[len(old) :] if inside else node
