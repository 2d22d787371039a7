"""Composes a configuration with Hydra and checks it, before anything heavy is imported or loaded."""

from __future__ import annotations

import copy
import difflib
import os
import re
import secrets
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
from distillkit.launching import is_first_rank, started_processes

PATHS = ("teacher.path", "teacher.cache", "tokenizer.path", "student.init_from", "student.path", "data.path",
         "data.name", "data.valid_path", "data.cache_dir", "run.dir", "models", "reference")  # fmt: skip
"""Keys whose values are files or folders; relative ones mean the caller's folder."""

_LISTS = ("models", "tasks", "seeds")  # of compare.yaml; a single value is a list of one
SUITES = {"glue": ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")}
"""Names in tasks=[...] that stand for several tasks."""

EVALUATION_GROUPS = ("teacher", "data", "masking")
"""Groups of evaluate.yaml that may take the place of a run's own."""


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
        name: "train", "evaluate", "compare", "sweep" or "tokenizer".
        overrides: in Hydra's grammar.
        config_dir: a folder of the user's own files that adds to the groups.

    Returns:
        The configuration, and Hydra's own node (choices and overrides).

    Raises:
        ConfigError: an override that does not parse, an unknown key or group, with the nearest that exists.
    """
    if config_dir and not Path(config_dir).is_dir():
        raise ConfigError("no such folder", key="--config-dir", value=config_dir)
    search = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
    if name == "compare":
        overrides = [*overrides, *_task_choices(overrides, config_dir)]
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
        folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
        raise _composition_error(error, name, overrides, folders) from None
    OmegaConf.set_struct(cfg, False)
    hydra = cfg.pop("hydra")
    OmegaConf.set_struct(cfg, True)
    return cfg, hydra


def quoted(text: str) -> str:
    """A string of Hydra's grammar, whatever it holds; there a backslash is special before a quote alone."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


def _task_choices(overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """Hydra's words that put conf/task/NAME.yaml at task.NAME for every name in tasks=[...], suites spelt out."""
    given = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == "tasks"]
    try:
        names = yaml.safe_load(given[-1]) if given else []
    except yaml.YAMLError:
        raise ConfigError("not a list", key="tasks", value=given[-1], fix="set tasks=[sst2,ner]") from None
    names = names if isinstance(names, list) else [names]
    names = [task for name in names for task in SUITES.get(name, (name,))]
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    known = sorted({file.stem for folder in folders for file in folder.glob("task/*.yaml")} - {"base"})
    for name in names:
        if name not in known:
            near = _nearest(str(name), known)
            raise ConfigError(
                "no such task", key="tasks", value=name, allowed=", ".join([*SUITES, *known]),
                fix=f"did you mean {near}?" if near else "your own is a file task/NAME.yaml in --config-dir",
            )  # fmt: skip
    names = list(dict.fromkeys(names))
    return [f"+task@task.{name}={name}" for name in names] + ([f"tasks=[{','.join(names)}]"] if names else [])


def _composition_error(error: Exception, name: str, overrides: Sequence[str], folders: Sequence[Path]) -> ConfigError:
    """One line for a composition that failed, with the nearest existing key or option."""
    pairs = [override.lstrip("~").partition("=") for override in overrides if not override.startswith("+")]
    if "Ambiguous value" in str(error):
        key, _, value = next((pair for pair in pairs if "," in pair[2]), ("", "", ""))
        return ConfigError("several values", key=key, value=value, fix=f"a list is {key}=[{value}], a sweep needs -m")
    groups = {group.name: set[str]() for folder in folders for group in folder.iterdir() if group.is_dir()}
    for folder in folders:
        for file in folder.glob("*/*.yaml"):
            groups[file.parent.name].add(file.stem)
    choices = [o for o in overrides if o.lstrip("+").partition("=")[0].split("@")[0] in groups]
    known = set(groups) | set(keys(name, choices))
    compared = {o.partition("=")[2] for o in choices if o.startswith("+task@")}
    for key, _, value in pairs:
        if key in groups and value not in groups[key] and value != "null":
            near = _nearest(value, groups[key])
            path = f"; a folder goes to {key}.path" if "/" in value or value == "" else ""
            return ConfigError(
                f"no such choice{path}",
                key=key,
                value=value,
                allowed=", ".join(sorted(groups[key])),
                fix=f"did you mean {key}={near}?" if near else None,
            )
    for key, _, value in pairs:
        if name == "compare" and key.startswith("task.") and (task := key.split(".")[1]) not in compared:
            return ConfigError("a key of a task that is not compared", key=key, value=value, fix=f"add {task} to tasks")
        if key not in known:
            near = _nearest(key, known)
            return ConfigError(
                "no such key",
                key=key,
                value=value,
                fix=f"did you mean {near}?" if near else f"see distillkit {name} --cfg job",
            )
    return ConfigError(str(error).splitlines()[0])


def _nearest(word: str, known: Sequence[str] | set[str]) -> str | None:
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return found[0] if found else None


def keys(name: str, overrides: Sequence[str]) -> list[str]:
    """Every dotted key of a composition.

    Args:
        name: "train", "evaluate", "compare", "sweep" or "tokenizer".
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
    if "run" in cfg and "id" in cfg.run:
        _settle_run(cfg.run, hydra)
    for key in _LISTS:
        if key in cfg and not OmegaConf.is_list(cfg[key]):
            cfg[key] = [cfg[key]]
    tasks = cfg.get("task", {}).items()
    files = [f"task.{name}.files.{part}" for name, task in tasks for part in task.get("files", ())]
    for key in (*PATHS, *files):
        value = OmegaConf.select(cfg, key)
        if value is not None:
            OmegaConf.update(cfg, key, absolute(OmegaConf.to_object(value) if OmegaConf.is_list(value) else value, key))
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None


def _settle_run(run: DictConfig, hydra: DictConfig) -> None:
    """Chooses folder and id; the other ranks compose again, seconds later, and must come to the same."""
    if run.dir is None:
        name = hydra.runtime.choices.get("experiment") or "train"
        if is_first_rank() and started_processes() == 1:
            os.environ["DISTILLKIT_RUN_DIR"] = f"runs/{name}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        elif "DISTILLKIT_RUN_DIR" not in os.environ:
            raise ConfigError("the ranks must know their folder", key="run.dir", value=None, fix="set run.dir=FOLDER")
        run.dir = os.environ["DISTILLKIT_RUN_DIR"]
    if run.id is None:
        if is_first_rank():
            os.environ["DISTILLKIT_RUN_ID"] = secrets.token_hex(4)
        run.id = os.environ.get("DISTILLKIT_RUN_ID")  # without one: another launcher's rank, which logs nothing


def absolute(value: Any, key: str) -> Any:
    """A value of one of PATHS as what any folder's commands can use; a name stays one where no such file is here."""
    if isinstance(value, list):
        return [absolute(v, key) for v in value]
    if value == "":  # such as an unset variable of the shell; it would be the current folder
        raise ConfigError("an empty path", key=key, value="", fix=f"name it, or set {key}=null")
    if "," in str(value) and key in ("data.path", "data.valid_path") and not os.path.exists(str(value)):
        return [absolute(part.strip(), key) for part in str(value).split(",")]
    path = os.path.expanduser(str(value))
    may_be_a_name = key in ("teacher.path", "tokenizer.path", "student.init_from", "data.name", "models", "reference")
    return os.path.abspath(path) if not may_be_a_name or os.path.exists(path) else value


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) for every value that differs between two settled configurations."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def with_changes(cfg: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a settled configuration with `key=value` changes; values are read as OmegaConf does.

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
        value = OmegaConf.select(OmegaConf.from_dotlist([override]), key)
        node[last] = OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
    return changed


def options(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of conf/<name>.yaml with `key=value` changes, without Hydra: a key may be called as a group is.

    Raises:
        ConfigError: not of that form, or an unknown key.
    """
    return with_changes(OmegaConf.to_object(OmegaConf.load(conf_dir() / f"{name}.yaml")), overrides)  # type: ignore[arg-type]


def completed(cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run made by an older version, with the defaults of the keys it lacks where it may."""
    defaults = {group: options(f"{group}/{file}", []) for group, file in (("teacher", "pretrained"), ("data", "base"))}
    defaults["run"] = options("train", [])["run"]
    return cfg | {group: values | cfg[group] for group, values in defaults.items()}


def relocated(node: Any, old: str, new: str) -> Any:
    """The configuration with every path below folder `old` put below `new`: a run's folder may be moved."""
    if isinstance(node, dict):
        return {key: relocated(value, old, new) for key, value in node.items()}
    if isinstance(node, list):
        return [relocated(value, old, new) for value in node]
    inside = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return new + node[len(old) :] if inside else node
