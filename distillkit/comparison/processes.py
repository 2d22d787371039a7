"""Units in processes of their own: one that raises, exits or is killed leaves the others alone.

The processes are forked from a server that has imported torch, Lightning and transformers once, which takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from distillkit.comparison.tasks.base import naming
from distillkit.comparison.units import LOG, UNITS, Unit, run_unit
from distillkit.errors import DistillkitError
from distillkit.machine import keep_freed_memory
from distillkit.progress import activity

_WAIT = 0.5
_SECONDS_BETWEEN_NEWS = 0.5


@dataclass
class _Worker:
    unit: Unit
    process: ForkServerProcess
    news: Connection
    began: float = field(default_factory=time.perf_counter)
    step: str = "starting"
    error: str | None = None


def run_units(
    units: Sequence[Unit], place: Path, *, jobs: int, threads: int, on_end: Callable[[Unit, str | None], None]
) -> None:
    """Runs units, some at once, each in a process and a folder of its own.

    Leaving it with an exception, Ctrl-C for one, ends the processes it started.

    Args:
        units: to do, in their order.
        place: the comparison's folder.
        jobs: processes at once.
        threads: of each process.
        on_end: called with the unit and None, or why it failed in one line, when its process has ended.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting, running = list(units), list[_Worker]()
    with _ending(running), activity("starting") as say:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_start(context, waiting.pop(0), place, threads))
            connection.wait([worker.process.sentinel for worker in running], timeout=_WAIT)
            for worker in list(running):
                _read(worker)
                if not worker.process.is_alive():
                    running.remove(worker)
                    on_end(worker.unit, _end(worker))
            say(_summary(running, len(units) - len(waiting) - len(running), len(units)))


def _start(context: Any, unit: Unit, place: Path, threads: int) -> _Worker:
    folder = unit.folder(place)
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was cut off
    folder.mkdir(parents=True)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(unit, folder, threads, writer), name=unit.key)
    process.start()
    writer.close()
    return _Worker(unit, process, reader)


def _read(worker: _Worker) -> None:
    """Takes what the process has said."""
    with contextlib.suppress(EOFError, OSError):
        while worker.news.poll():
            kind, text = worker.news.recv()
            setattr(worker, kind, text)


def _end(worker: _Worker) -> str | None:
    """Why an ended process failed; None when it did not."""
    worker.process.join()
    _read(worker)
    worker.news.close()
    code = worker.process.exitcode or 0
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    return worker.error if code == 0 or worker.error else f"ended with exit code {code}"


@contextlib.contextmanager
def _ending(running: list[_Worker]) -> Iterator[None]:
    """Ends what is left running when the block is left."""
    try:
        yield
    finally:
        for worker in running:
            worker.process.terminate()
        for worker in running:
            worker.process.join()


def _summary(running: Sequence[_Worker], done: int, total: int) -> str:
    shown = "; ".join(f"{w.unit.task}, {w.unit.model}, seed {w.unit.seed}: {w.step}" for w in running)
    return f"{done} of {total} fine-tunings done; {shown}"


# --- in the process of a unit ------------------------------------------------------------------------------------


def _work(unit: Unit, folder: Path, threads: int, news: Connection) -> None:
    """Does one unit; says its steps, and why it failed. What the libraries print goes to the unit's log."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to act on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with (folder / LOG).open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    keep_freed_memory()
    import torch  # here, so that the module can be read without it

    torch.set_num_threads(threads)
    last = 0.0

    def on_step(done: int, total: int) -> None:
        nonlocal last
        if time.perf_counter() - last > _SECONDS_BETWEEN_NEWS:
            last = time.perf_counter()
            news.send(("step", f"step {done} of {total}"))

    try:
        with naming(unit.task):
            run_unit(unit, folder, on_step)
    except DistillkitError as error:
        traceback.print_exc()
        news.send(("error", str(error)))
    except Exception as error:
        traceback.print_exc()
        news.send(
            ("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({UNITS}/{folder.name}/{LOG})")
        )


def _follow_parent() -> None:
    """Ends this process when its parent has died: a killed comparison leaves nothing running."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
