"""What a sweep is to run: typed words and sweep.yaml become a folder and a ledger of arms, each checked."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit import config, validation
from distillkit.errors import ConfigError, RunStateError
from distillkit.launching import check_alone
from distillkit.sweeps.arms import LEDGER, Arm, Ledger
from distillkit.sweeps.space import read_space
from distillkit.sweeps.words import combinations, key_of, parse, quoted, value_of, with_absolute_path

OWN_GROUPS = ("sweep", "launcher")


class Typed(NamedTuple):
    """Words of the command line.

    Attributes:
        own: of sweep.yaml.
        shared: train's with one value.
        varied: train's with several, by key, in Hydra's sweep grammar.
        seeds: of the word seed; None when it was not typed.
    """

    own: list[str]
    shared: list[str]
    varied: dict[str, str]
    seeds: list[int] | None


def plan(words: Sequence[str], config_dir: str | None) -> tuple[Path, Ledger]:
    """The sweep's folder, and its arms in the order they are to run: one seed of every arm before the next seed.

    Nothing is written or started. A search (sweep.method random, tpe) plans no arms: it asks for them as it goes. It is
    refused for an error that trials at both ends of what it draws from have, as all would fail by it.

    Args:
        words: as typed: sweep, sweep.*, launcher, launcher.* and run.dir are sweep.yaml's, all others train's.
        config_dir: a folder of the user's own conf files.

    Raises:
        ConfigError: a word, the definition or an arm does not compose or is not valid; arms that are the same.
    """
    check_alone("a sweep", key="sweep")
    typed = sort_words(words)
    cfg = definition(typed.own, config_dir)
    sweep = cfg["sweep"]
    taken = {key_of(word) for word in typed.shared}
    vary = {key: str(values) for key, values in sweep["vary"].items() if key not in taken} | typed.varied
    shared = [with_absolute_path(word) for word in [*sweep["base"], *typed.shared]]
    kinds = _kinds(sweep, vary)
    chosen, seed = _train_defaults([*shared, *(kinds[0].words if kinds else ())], config_dir)
    seeds = _seeds(typed.seeds or sweep["seeds"] or [seed])
    names = list(dict.fromkeys(kind.name for kind in kinds)) or [chosen]
    ledger = Ledger(
        name=sweep["name"], shared=shared, config_dir=config_dir and os.path.abspath(config_dir),
        sweep=sweep | {"vary": vary, "seeds": seeds}, launcher=cfg["launcher"],
        baseline=_baseline(sweep, names), command=_command(words, config_dir),
        arms=[Arm(number, kind.name or chosen, seed, kind.words, kind.values)
              for number, (seed, kind) in enumerate(itertools.product(seeds, kinds))],
    )  # fmt: skip
    check = check_arms if kinds else _check_examples
    check(ledger)
    return Path(cfg["run"]["dir"] or _default_folder(chosen, sweep["name"], typed)).absolute(), ledger


def sort_words(words: Sequence[str]) -> Typed:
    """Tells sweep.yaml's words from train's, and train's with several values from those with one."""
    typed = Typed([], [], {}, None)
    for word in words:
        key = key_of(word)
        if key.partition(".")[0] in OWN_GROUPS or key == "run.dir":
            typed.own.append(word)
        elif key == "seed":
            typed = typed._replace(seeds=[value_of(one) for (one,) in combinations([word])])
        elif parse(word).is_sweep_override():
            typed.varied[word.partition("=")[0]] = word.partition("=")[2]
        else:
            typed.shared.append(word)
    return typed


def definition(own: Sequence[str], config_dir: str | None) -> dict[str, Any]:
    """sweep.yaml with the words that are its own, settled and checked."""
    cfg, hydra = config.load("sweep", own, config_dir)
    if cfg.sweep.seeds is not None and isinstance(cfg.sweep.seeds, int):
        cfg.sweep.seeds = [cfg.sweep.seeds]
    settled = config.settle(cfg, hydra)
    validation.validate_sweep(settled)
    return settled


class _Kind(NamedTuple):
    """What the arms of one name have in common: an arm for every seed."""

    name: str
    words: list[str]
    values: dict[str, Any]


def _kinds(sweep: Mapping[str, Any], vary: Mapping[str, str]) -> list[_Kind]:
    """Every listed arm with every combination of the varied values; none for a search."""
    if sweep["method"] != "grid":
        if sweep["arms"] or not vary:
            raise ConfigError("a search varies keys within bounds, it lists no arms", key="sweep.method",
                              value=sweep["method"], fix="type such as 'loss.alpha=interval(0,10)'")  # fmt: skip
        return []
    listed = {name: [with_absolute_path(str(word)) for word in words or ()] for name, words in sweep["arms"].items()}
    keys = [key_of(key) for key in vary]
    lasts = Counter(key.rpartition(".")[2] for key in keys)
    labels = {key: last if lasts[last := key.rpartition(".")[2]] == 1 else key for key in keys}
    kinds = []
    for name, words in (listed or {"": []}).items():
        for combination in combinations([f"{key}={values}" for key, values in vary.items()]):
            values = {key_of(word): value_of(word) for word in combination}
            shown = ",".join(f"{labels[key]}={_shown(value)}" for key, value in values.items())
            kinds.append(_Kind(",".join(filter(None, (name, shown))), [*words, *map(with_absolute_path, combination)],
                               values))  # fmt: skip
    return kinds


def _shown(value: Any) -> str:
    """A value as an arm's name has it: JSON's spelling, without spaces and quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _train_defaults(words: Sequence[str], config_dir: str | None) -> tuple[str, int]:
    """The experiment's name, or "train", and the seed of a composition."""
    cfg, hydra = config.load("train", words, config_dir)
    return hydra.runtime.choices.get("experiment") or "train", cfg.seed


def _seeds(seeds: Any) -> list[int]:
    right = isinstance(seeds, list) and all(isinstance(seed, int) and seed >= 0 for seed in seeds)
    if not right or len(set(seeds)) < len(seeds):
        raise ConfigError("must be whole numbers without repetitions", key="seed", value=seeds, allowed=">= 0",
                          fix="type such as seed=0,1,2")  # fmt: skip
    return seeds


def _baseline(sweep: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The arm that the others are measured against; of a listed one with varied values, that with the first values."""
    if sweep["method"] != "grid":
        return None
    wanted = sweep["baseline"]
    found = [name for name in names if wanted in (None, name) or name.startswith(f"{wanted},")]
    if not found:
        raise ConfigError("no such arm", key="sweep.baseline", value=wanted, allowed=", ".join(names))
    return found[0]


def _command(words: Sequence[str], config_dir: str | None) -> list[str]:
    return ["distillkit", "sweep", *words, *(["--config-dir", config_dir] if config_dir else [])]


def _default_folder(experiment: str, name: str, typed: Typed) -> str:
    """The same for the same command, so that it finds what it has done; seeds may be added to it later."""
    if name == "grid":
        told = json.dumps([typed.shared, typed.varied])
        name = f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    return f"runs/{experiment}/sweeps/{name}"


def check_arms(ledger: Ledger) -> None:
    """Composes and checks the configuration of every arm, before any is started.

    Raises:
        ConfigError: naming the arm; or two arms have a name, or the words, in common.
    """
    kinds = {arm.name: arm for arm in reversed(ledger.arms)}
    if len(kinds) * len(ledger.sweep["seeds"]) < len(ledger.arms):
        names = Counter(arm.name for arm in ledger.arms if arm.seed == ledger.arms[0].seed)
        raise ConfigError("two arms of that name", key="sweep", value=names.most_common(1)[0][0])
    same: dict[tuple[str, ...], str] = {}
    for name, arm in sorted(kinds.items(), key=lambda item: item[1].number):
        if (other := same.setdefault(tuple(arm.words), name)) != name:
            raise ConfigError(f"the same run as {other}", key="sweep.arms", value=name, fix="leave one of them out")
        try:
            _check_arm(ledger, arm)
        except ConfigError as error:
            raise ConfigError(f"{error.problem} (arm {name})", key=error.key, value=error.value,
                              allowed=error.allowed, fix=error.fix) from None  # fmt: skip


def _check_examples(ledger: Ledger) -> None:
    """Refuses a search of which two trials, of low and of high values of every key, have the same error."""
    errors: list[ConfigError] = []
    for words in zip(*(dimension.examples for dimension in read_space(ledger.sweep["vary"])), strict=True):
        try:
            _check_arm(ledger, Arm(0, "", ledger.sweep["seeds"][0], list(words)))
        except ConfigError as error:
            errors.append(error)
    if len({(error.key, error.problem) for error in errors}) == 1 < len(errors):
        raise errors[0]


def _check_arm(ledger: Ledger, arm: Arm) -> None:
    cfg = settled(ledger, arm, Path(os.devnull))
    if ledger.sweep["shared_pass"]:
        _check_shares(cfg)
    if ledger.sweep["max_steps"] and cfg["trainer"]["max_steps"] < 0:
        raise ConfigError("a budget of steps needs arms that count steps", key="trainer.max_steps", value=-1,
                          fix="set trainer.max_steps, or drop sweep.max_steps")  # fmt: skip


def _check_shares(cfg: Mapping[str, Any]) -> None:
    """Refuses what several runs of one process cannot have each: W&B's run, a compiled teacher, devices."""
    wandb = [key for key, logger in cfg["logger"].items() if str(logger.get("_target_")).endswith(".WandbLogger")]
    for wrong, key, value, allowed in (
        (bool(wandb), "logger", "wandb", "tensorboard, none"),
        (cfg["run"]["compile"], "run.compile", True, "false"),
        (cfg["trainer"]["devices"] not in (1, "1", "auto"), "trainer.devices", cfg["trainer"]["devices"], "1"),
    ):
        if wrong:
            raise ConfigError("not for arms of one process", key=key, value=value, allowed=allowed,
                              fix="or set sweep.shared_pass=false, sweep.share_cache=true")  # fmt: skip


def settled(ledger: Ledger, arm: Arm, folder: Path) -> dict[str, Any]:
    """An arm's configuration, composed, settled and validated.

    Args:
        ledger, arm: one of its arms.
        folder: of the run.

    Raises:
        ConfigError: it does not compose, is not valid, or is of several nodes, which no launcher starts.
    """
    cfg = config.settle(*config.load("train", arm_words(ledger, arm, folder), ledger.config_dir))
    validation.validate(cfg)
    if cfg["trainer"]["num_nodes"] > 1:
        raise ConfigError("an arm has one node", key="trainer.num_nodes", value=cfg["trainer"]["num_nodes"],
                          allowed="1", fix="use trainer.devices, or start such runs with torchrun")  # fmt: skip
    return cfg


def arm_words(ledger: Ledger, arm: Arm, folder: Path | None = None) -> list[str]:
    """Train's overrides of an arm, in a folder where one is given."""
    where = [] if folder is None else [quoted("run.dir", str(folder))]
    return [*ledger.shared, *arm.words, f"seed={arm.seed}", *where]


def continued(folder: Path, planned: Ledger) -> Ledger:
    """The ledger of a folder, with the arms that the plan has beyond it; the plan where nothing was begun.

    Args:
        folder: of the sweep.
        planned: what the command asks for now.

    Raises:
        RunStateError: the folder's sweep is another one; the first difference is named.
    """
    if not (folder / LEDGER).is_file():
        return planned
    begun = Ledger.read(folder)
    for name in ("shared", "config_dir"):
        before, now = getattr(begun, name), getattr(planned, name)
        if before != now:
            raise _another(folder, f"what all arms have was {before} and is {now}")
    if (begun.sweep["method"], begun.sweep["vary"]) != (planned.sweep["method"], planned.sweep["vary"]):
        before, now = begun.sweep["vary"], planned.sweep["vary"]
        if planned.sweep["method"] != "grid" or begun.sweep["method"] != "grid":
            raise _another(folder, f"its search was over {before} and is over {now}")
    if planned.sweep["method"] == "grid":
        known = {(arm.name, arm.seed): arm.words for arm in begun.arms}
        wanted = {(arm.name, arm.seed): arm.words for arm in planned.arms}
        for (name, seed), words in known.items():
            if wanted.get((name, seed)) != words:
                raise _another(folder, f"it has the arm {name}, seed {seed}: {' '.join(words)}")
        for arm in planned.arms:
            if (arm.name, arm.seed) not in known:
                arm.number = len(begun.arms)
                begun.arms.append(arm)
    begun.sweep, begun.launcher, begun.command = planned.sweep, planned.launcher, planned.command
    return begun


def _another(folder: Path, difference: str) -> RunStateError:
    return RunStateError(f"holds another sweep: {difference}", key="run.dir", value=folder,
                         fix="type the same command, or choose another run.dir")  # fmt: skip
