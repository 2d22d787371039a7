"""The process on this machine: settings chosen once at start-up, and the memory it has used."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MEGABYTE = 1e6
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h
_MANY, _TOP_PAD = 2**31 - 1, 64 * 2**20
_kept = {"freed_memory": False}


def set_up(run: Mapping[str, Any]) -> None:
    """Settles threads and memory of this process before it computes; the data workers, forked from it, take them over.

    Args:
        run: threads (None: OMP_NUM_THREADS, else one a physical core) and keep_freed_memory.
    """
    import torch  # late: what only helps need not wait for it

    if run["threads"] is not None:
        torch.set_num_threads(run["threads"])
        os.environ["OMP_NUM_THREADS"] = str(run["threads"])  # else Lightning chooses anew for several processes
    if run["keep_freed_memory"]:
        keep_freed_memory()


def settings() -> dict[str, Any]:
    """What holds in this process: threads, keeps_freed_memory, huge_pages (whether large tensors lie on 2 MB pages)."""
    import torch

    return {
        "threads": torch.get_num_threads(),
        "keeps_freed_memory": _kept["freed_memory"],
        "huge_pages": _huge_pages(),
    }


def _huge_pages() -> bool:
    """The kernel gives them to all, or to who asks, as torch does with THP_MEM_ALLOC_ENABLE=1.

    That is left to the user: where freed memory is kept, a demo step takes 0.99 of the time and a tenth more memory.
    """
    offer = HUGE_PAGES.read_text() if HUGE_PAGES.is_file() else ""
    return "[always]" in offer or ("[madvise]" in offer and os.environ.get("THP_MEM_ALLOC_ENABLE") == "1")


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next tensor instead of handing it to the system and asking again.

    Every large tensor of a step is otherwise mapped, zeroed page by page and unmapped again, 10 to 20% of a training
    step on the CPU. Left alone where the user chose otherwise (MALLOC_* variables, another allocator by LD_PRELOAD).

    Returns:
        Whether the settings were made.
    """
    if _memory_is_the_users():
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MANY), (_M_TOP_PAD, _TOP_PAD))
    _kept["freed_memory"] = all([_mallopt(name, value) for name, value in settings])
    return _kept["freed_memory"]


def use_one_arena() -> None:
    """Lets all threads of this process allocate from one heap, before they begin.

    glibc gives each thread heaps of 64 MB, from which no larger tensor comes and which are not kept when freed.
    """
    if not _memory_is_the_users():
        _mallopt(_M_ARENA_MAX, 1)


def _memory_is_the_users() -> bool:
    return any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("LD_PRELOAD", "")


def _mallopt(name: int, value: int) -> bool:
    """Makes one of malloc's settings; False where it cannot be made."""
    try:
        return ctypes.CDLL("libc.so.6").mallopt(name, value) == 1
    except (OSError, AttributeError):  # not glibc
        return False


def peak_memory() -> int:
    """Peak resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage counts the parent's peak as well, which a started process takes over
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_used(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far.

    Args:
        device: the one it computes on.

    Returns:
        peak_memory_mb (resident), and on a GPU peak_gpu_memory_mb (of its tensors). MB of 10^6 bytes.
    """
    used = {"peak_memory_mb": peak_memory() / MEGABYTE}
    if device.type == "cuda":
        import torch  # late: the settings above are to be made before torch allocates

        used["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated(device) / MEGABYTE
    return used
