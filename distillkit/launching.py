"""The processes of a run as those who start them tell: torchrun, SLURM, or Lightning by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

from distillkit.errors import ConfigError, Preempted

PARENT = "DISTILLKIT_PARENT"
"""Variable with the id of the process that a run must not outlive."""

_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass
class Stop:
    """Whether a run is asked to stop: set by a signal's handler, where a threading.Event may lock itself out."""

    asked: bool = False


def follow_parent() -> None:
    """Stops this process as SIGTERM does when its parent ends: a sweep that was killed leaves nothing running.

    Only where PARENT names the parent. It is taken from the environment, so that ranks and data workers, whose parent
    is this process, do not look.

    Raises:
        Preempted: the parent has ended already.
    """
    told = os.environ.pop(PARENT, None)
    if told is None:
        return
    if os.getppid() != int(told):
        raise Preempted("the sweep that started this run has ended")
    threading.Thread(target=_follow, args=(int(told),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)


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


def check_alone(what: str, *, key: str) -> None:
    """Refuses to start runs from one of several processes, each of which would start them all.

    Args:
        what: such as "a sweep".
        key: that was typed.

    Raises:
        ConfigError: a launcher has started several, or Lightning this one as another rank.
    """
    processes = started_processes()
    if processes > 1 or not is_first_rank():
        raise ConfigError(f"{what} starts its own processes", key=key, value=f"{processes} processes", allowed="1",
                          fix="start it without torchrun or srun; a run's own are trainer.devices")  # fmt: skip


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
