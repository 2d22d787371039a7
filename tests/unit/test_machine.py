"""The allocator's settings, seen from a process of their own: what is freed stays, unless the user chose otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from pathlib import Path
from distillkit.machine import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

kept = keep_freed_memory() if sys.argv[1] == "keep" else False
before = resident()
block = bytearray(200_000_000)
del block
print(kept, resident() - before > 150_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("action", "environment", "expected"),
    [
        ("keep", {}, "True True"),
        ("leave", {}, "False False"),
        ("keep", {"MALLOC_ARENA_MAX": "2"}, "False False"),
        ("keep", {"LD_PRELOAD": "libjemalloc.so.2"}, "False False"),
    ],
)
def test_freed_memory_is_kept_when_the_user_has_not_chosen(
    action: str, environment: dict[str, str], expected: str
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, action], env=clean | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
