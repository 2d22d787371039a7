"""Errors a user can act on. Each carries the exit code the command line ends with.

The message is one line: `<key>=<value>: <what is wrong>; allowed: <range>; fix: <action>`.
"""

from __future__ import annotations

import sys
from typing import Any

FAILED_PARTS = 5
"""Exit code of a command whose parts can fail alone, arms of a multirun for one, when some did."""


class DistillkitError(Exception):
    """An error with a known cause; `exit_code` is what the process returns.

    Args:
        problem: what is wrong, one line.
        key: the configuration key (or file) it concerns, e.g. "loss.temperature".
        value: the offending value; shown after the key.
        allowed: the range of good values.
        fix: what to do about it.
    """

    exit_code = 1

    def __init__(
        self,
        problem: str,
        *,
        key: str | None = None,
        value: Any = None,
        allowed: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.key, self.value, self.allowed, self.fix = problem, key, value, allowed, fix
        head = f"{key}={value}: " if key is not None else ""
        tail = "".join(f"; {name}: {text}" for name, text in (("allowed", allowed), ("fix", fix)) if text)
        super().__init__(" ".join(f"{head}{problem}{tail}".split()))


class ConfigError(DistillkitError):
    """A value or a combination of values in the configuration is wrong."""

    exit_code = 2


class DataError(DistillkitError):
    """The corpus is missing, empty, unreadable or unusable."""

    exit_code = 2


class TeacherError(DistillkitError):
    """The teacher, or another model a user named, cannot serve."""

    exit_code = 2


class RunStateError(DistillkitError):
    """A run's folder is in use, not a run, or does not fit the command."""

    exit_code = 2


class NumericalError(DistillkitError):
    """A loss or a gradient is not finite."""

    exit_code = 3


class StorageError(DistillkitError):
    """Reading or writing failed: disk full, read-only, a data worker died."""

    exit_code = 4


class Preempted(DistillkitError):
    """The run was asked to stop (SIGTERM) and saved itself first."""

    exit_code = 143


def tell(error: BaseException) -> int:
    """Prints an error's line on stderr and returns the exit code for it.

    Args:
        error: that ended a command, or one of several runs in a process.
    """
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, DistillkitError):
        print(f"{'' if isinstance(error, Preempted) else 'error: '}{error}", file=sys.stderr)
        return error.exit_code
    text = " ".join(str(error).split())[:500]
    print(f"error: {type(error).__name__}: {text}; --debug shows where", file=sys.stderr)
    return 1
