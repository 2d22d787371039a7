"""The processes of a run as those who start them tell: torchrun, SLURM, or Lightning by itself."""

from __future__ import annotations

import os

from distillkit.errors import ConfigError


def is_first_rank() -> bool:
    """Whether this process owns lock, folders and reports: no launcher has given it another rank than 0.

    The launchers are asked in Lightning's order. torchrun's RANK counts only where torchrun has started the process:
    Lightning's own processes take over what the shell had exported.
    """
    by_lightning = ("NODE_RANK" if "NODE_RANK" in os.environ else "GROUP_RANK", "LOCAL_RANK")
    names = ("RANK",) if _by_torchrun() else ("SLURM_PROCID", *by_lightning)
    return all(os.environ.get(name, "0") == "0" for name in names)


def started_processes() -> int:
    """Processes of this run that a launcher has started; 1 where Lightning starts the others itself."""
    return int(os.environ.get("WORLD_SIZE" if _by_torchrun() else "SLURM_STEP_NUM_TASKS", "1"))


def check_processes(ranks: int, num_nodes: int) -> None:
    """Refuses a launch that would fail late, or wait for processes that nobody starts.

    Args:
        ranks: processes of the configuration, all nodes together.
        num_nodes: trainer.num_nodes.

    Raises:
        ConfigError: torchrun has started another number of processes, or nobody starts those of the other nodes.
    """
    if _by_torchrun() and started_processes() != ranks:
        raise ConfigError(
            f"{ranks} processes with trainer.devices, but torchrun has started {started_processes()}",
            key="trainer.num_nodes", value=num_nodes, allowed="--nnodes",
            fix="set trainer.num_nodes=NNODES and trainer.devices=NPROC_PER_NODE, as given to torchrun",
        )  # fmt: skip
    if num_nodes > 1 and not any(name in os.environ for name in _TELL_THE_NODE):
        raise ConfigError(
            "nobody has started the other nodes", key="trainer.num_nodes", value=num_nodes, allowed="1 by itself",
            fix="start it on each node with torchrun --nnodes",
        )  # fmt: skip


_TELL_THE_NODE = ("TORCHELASTIC_RUN_ID", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")


def _by_torchrun() -> bool:
    """As Lightning finds out."""
    return "TORCHELASTIC_RUN_ID" in os.environ
