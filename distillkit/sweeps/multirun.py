"""`train -m`: Hydra's sweep grammar, one process per combination."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from distillkit import config, validation
from distillkit.errors import FAILED_PARTS
from distillkit.launching import check_alone
from distillkit.sweeps.words import combinations


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
    check_alone("a multirun", key="-m")
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
    arms = []
    for words in combinations([word for word in overrides if not word.startswith("run.dir=")]):
        cfg, hydra = config.load("train", words, config_dir)
        validation.validate(config.settle(cfg, hydra))
        arms.append((words, hydra.runtime.choices.get("experiment") or "train"))
    return arms
