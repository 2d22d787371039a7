"""The allocator's settings, seen from a process of their own: what is freed stays, unless the user chose otherwise."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from distillkit import machine

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


SETTINGS = """
import json, sys, torch
from distillkit import machine
machine.set_up(json.loads(sys.argv[1]))
print(json.dumps(machine.settings() | {"computes_with": torch.get_num_threads(), "forked": forked()}))
"""
FORKED = """
import os
def forked():
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(machine.settings()["keeps_freed_memory"]).encode())
        os._exit(0)
    os.wait()
    return os.read(read, 9).decode()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("run", "environment", "threads", "kept"),
    [
        ({"threads": None, "keep_freed_memory": True}, {"OMP_NUM_THREADS": "1"}, 1, True),
        ({"threads": 2, "keep_freed_memory": True}, {"OMP_NUM_THREADS": "1"}, 2, True),
        ({"threads": 1, "keep_freed_memory": False}, {"OMP_NUM_THREADS": "2"}, 1, False),
        ({"threads": None, "keep_freed_memory": True}, {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "2"}, 2, False),
    ],
)
def test_settings_are_the_keys_then_the_environments_when_set_up(
    run: dict[str, object], environment: dict[str, str], threads: int, kept: bool
) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "LD_PRELOAD"}
    command = [sys.executable, "-c", FORKED + SETTINGS, json.dumps(run)]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["threads"], found["computes_with"]) == (threads, threads)
    assert (found["keeps_freed_memory"], found["forked"]) == (kept, str(kept))


@pytest.mark.parametrize(
    ("offer", "asked", "expected"),
    [("[always] madvise never", None, True), ("always [madvise] never", "1", True),
     ("always [madvise] never", None, False), ("always madvise [never]", "1", False), (None, "1", False)],
)  # fmt: skip
def test_huge_pages_are_there_when_the_kernel_gives_them_and_torch_asks(
    offer: str | None, asked: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if offer is not None:
        (tmp_path / "enabled").write_text(offer)
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if asked is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", asked)
    assert machine.settings()["huge_pages"] is expected
