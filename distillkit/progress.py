"""Says what a command is doing while nothing else can be seen: a spinner on a terminal, lines where asked for.

Off until the command line turns it on, so that the Python API is silent. A mistake of the user's is to be the only
line on stderr: the spinner erases itself, and lines come only with --verbose.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status

SECONDS_BETWEEN_LINES = 2.0

_shown = {"spinner": False, "lines": False}
_open: list[Callable[[str], None]] = []


def show(*, lines: bool) -> None:
    """Turns activities on for this process.

    Args:
        lines: also where stderr is not a terminal.
    """
    _shown["spinner"] = sys.stderr.isatty()
    _shown["lines"] = lines and not _shown["spinner"]


def wants_lines() -> bool:
    """Whether lines are asked for: stderr is no terminal and the user wants to see more than results."""
    return _shown["lines"]


def quiet_libraries() -> None:
    """Keeps the libraries' tips, bars and load reports off the screen: a user's mistake is to be the only line."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
    logging.disable(logging.WARNING)  # setting levels does not do: Lightning raises its own when it is imported
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("default", module=r"distillkit\..*")
    warnings.showwarning = lambda message, *args, **kwargs: print(f"warning: {message}", file=sys.stderr)


@contextmanager
def activity(text: str) -> Iterator[Callable[[str], None]]:
    """Shows what is being done until the block ends; inside another activity it takes that one's place.

    Args:
        text: such as "tokenizing".

    Returns:
        A function that replaces the text, such as by "tokenizing: 3,000 of 25,000 documents".
    """
    if not (_shown["spinner"] or _shown["lines"]):
        yield lambda _: None
    elif _open:
        _open[-1](text)
        yield _open[-1]
    else:
        with _Spinner(text) if _shown["spinner"] else _Lines(text) as say:
            _open.append(say)
            try:
                yield say
            finally:
                _open.pop()


class _Spinner:
    def __init__(self, text: str) -> None:
        self.status = Status(text, console=Console(stderr=True))

    def __enter__(self) -> Callable[[str], None]:
        self.status.start()
        return self.status.update

    def __exit__(self, *error: object) -> None:
        self.status.stop()


class _Lines:
    """The text at once, and again with the seconds it has taken so far."""

    def __init__(self, text: str) -> None:
        self.text, self.began, self.ended = text, time.perf_counter(), threading.Event()
        self.thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Callable[[str], None]:
        self._print(self.text)
        self.thread.start()
        return self._replace

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()

    def _replace(self, text: str) -> None:
        self.text = text

    def _repeat(self) -> None:
        while not self.ended.wait(SECONDS_BETWEEN_LINES):
            self._print(f"{self.text} ({time.perf_counter() - self.began:.0f} s)")

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def results_console() -> Console:
    """The console that tables go to: stdout, 140 columns wide where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def duration(seconds: float) -> str:
    """A time span as a person says it: "45 s", "3 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
