"""Settings of the process for this machine, chosen once at start-up."""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_MANY, _TOP_PAD = 2**31 - 1, 64 * 2**20


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next tensor instead of handing it to the system and asking again.

    Every large tensor of a step is otherwise mapped, zeroed page by page and unmapped again, 10 to 20% of a training
    step on the CPU. Left alone where the user chose otherwise (MALLOC_* variables, another allocator by LD_PRELOAD).

    Returns:
        Whether the settings were made.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("LD_PRELOAD", "")
    if chosen:
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MANY), (_M_TOP_PAD, _TOP_PAD))
    return all([mallopt(name, value) == 1 for name, value in settings])
