"""`train -m`: Hydra's sweep grammar, one process per combination."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from distillkit import config, validation
from distillkit.errors import FAILED_PARTS, ConfigError
from distillkit.launching import started_processes


def run_arms(overrides: list[str], config_dir: str | None) -> int:
    """Trains every combination of the overrides' comma-separated values, one after the other.

    Each arm is a process of its own: one that raises, exits or is killed leaves the others alone. Its folder is
    runs/<experiment>/multirun/<date_time>/<number>, or run.dir/<number> when run.dir is given.

    Args:
        overrides: Hydra's grammar with sweeps: a=1,2  b=range(3)  group=x,y.
        config_dir: as for one run.

    Returns:
        0, or 5 when an arm failed.

    Raises:
        ConfigError: a launcher has started several processes, or an arm's configuration does not compose or validate;
            nothing is started then.
    """
    if (processes := started_processes()) > 1:
        raise ConfigError("a multirun starts its own processes", key="-m", value=f"{processes} processes", allowed="1",
                          fix="start it without torchrun or srun")  # fmt: skip
    arms = _arms(overrides, config_dir)
    base = next((o.partition("=")[2] for o in overrides if o.startswith("run.dir=")), None)
    failed = []
    for number, (words, name) in enumerate(arms):
        folder = Path(base or f"runs/{name}/multirun/{_STARTED}") / str(number)
        varied = " ".join(word for word in words if word not in overrides)
        print(f"[{number + 1}/{len(arms)}] {varied} -> {folder}", file=sys.stderr, flush=True)
        extra = ["--config-dir", config_dir] if config_dir else []
        command = [sys.executable, "-m", "distillkit", "train", *words, f"run.dir={folder}", *extra]
        code = subprocess.run(command, check=False).returncode
        if code:
            failed.append(number)
            print(f"[{number + 1}/{len(arms)}] failed with exit code {code}", file=sys.stderr, flush=True)
    print(f"{len(arms) - len(failed)} of {len(arms)} runs done", file=sys.stderr)
    return FAILED_PARTS if failed else 0


_STARTED = time.strftime("%Y-%m-%d_%H-%M-%S")


def _arms(overrides: list[str], config_dir: str | None) -> list[tuple[list[str], str]]:
    """(overrides, experiment's name) per arm, each checked as far as that goes without loading anything."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        combinations = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except Exception:
        config.load("train", overrides, config_dir)  # says in one line what does not parse
        raise
    arms = []
    for combination in combinations:
        words = [word for word in combination if not word.startswith("run.dir=")]
        cfg, hydra = config.load("train", words, config_dir)
        name = hydra.runtime.choices.get("experiment") or "train"
        validation.validate(config.settle(cfg, hydra))
        arms.append((words, name))
    return arms
