"""A sweep as W&B's server would run it, for those who prefer its agents."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from distillkit.errors import StorageError
from distillkit.storage import write_text
from distillkit.sweeps.arms import Ledger
from distillkit.sweeps.space import Dimension, read_space

FILE = "wandb_sweep.yaml"
_METHODS = {"grid": "grid", "random": "random", "tpe": "bayes"}
_AGENT_RUN = "run.id=${oc.env:WANDB_RUN_ID}"  # the run that the agent has announced, not one of its own
_ARGUMENTS = "${args_no_hyphens}"
_LISTED = 'eval "exec distillkit train \\"\\$@\\" ${0#arm=}"'
"""For sh: $0 is arm=WORDS, quoted for a shell, and what follows are the words of every arm."""


def write_wandb_sweep(ledger: Ledger, folder: Path) -> Path:
    """Writes wandb_sweep.yaml into the sweep's folder, for `wandb sweep FILE` and `wandb agent`.

    Args:
        ledger: planned.
        folder: of the sweep; made when it is missing.

    Returns:
        The file.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", key="run.dir", value=folder,
                           fix="choose another run.dir") from error  # fmt: skip
    write_text(folder / FILE, yaml.safe_dump(wandb_sweep(ledger), sort_keys=False))
    return folder / FILE


def wandb_sweep(ledger: Ledger) -> dict[str, Any]:
    """The content of a W&B sweep file whose agents start `distillkit train`.

    Varied keys are W&B's parameters, so that its pages can draw them. Arms listed by name differ in arbitrary words,
    which W&B's grid of parameters cannot say: they are the values of one parameter, `arm`. A search has one seed.
    Pruning is left out: W&B knows neither rule.

    Args:
        ledger: planned; its arms are read for listed arms and for seeds alone.

    Returns:
        Plain values for YAML: program, method, metric, parameters, command, and run_cap for a search.
    """
    sweep, logger = ledger.sweep, ["logger=wandb_online"]
    shared = [*ledger.shared, *([] if any(word.startswith("logger=") for word in ledger.shared) else logger)]
    shared += [_AGENT_RUN, *(["--config-dir", ledger.config_dir] if ledger.config_dir else [])]
    told: dict[str, Any] = {
        "name": ledger.name,
        "program": "distillkit",
        "method": _METHODS[sweep["method"]],
        "metric": {"name": sweep["metric"], "goal": "minimize"},
    }
    if sweep["arms"]:
        words = [shlex.join([*arm.words, f"seed={arm.seed}"]) for arm in ledger.arms]
        return told | {"parameters": {"arm": {"values": words}},
                       "command": ["${env}", "sh", "-c", _LISTED, _ARGUMENTS, *shared]}  # fmt: skip
    parameters = {dimension.key: _parameter(dimension) for dimension in read_space(sweep["vary"])}
    seeds = list(dict.fromkeys(sweep["seeds"] or [arm.seed for arm in ledger.arms])) or [0]
    search = sweep["method"] != "grid"
    parameters["seed"] = {"values": seeds[:1] if search else seeds}
    told |= {"parameters": parameters, "command": ["${env}", "distillkit", "train", *shared, _ARGUMENTS]}
    return told | ({"run_cap": sweep["trials"]} if search else {})


def _parameter(dimension: Dimension) -> dict[str, Any]:
    """A dimension as W&B says it; a value that is no number as Hydra's word, since agents write None and True."""
    if dimension.choices is None:
        kind = "int_uniform" if dimension.whole else "uniform"
        if dimension.log:
            kind = "q_log_uniform_values" if dimension.whole else "log_uniform_values"
        return {"distribution": kind, "min": dimension.low, "max": dimension.high}
    pairs = zip(dimension.choices, dimension.values or [], strict=True)
    return {"values": [value if type(value) in (int, float) else word for word, value in pairs]}
