"""Several runs in one process, with one pass of the teacher for all: what an arm's job is with sweep.shared_pass."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from distillkit import config, machine, validation
from distillkit.errors import tell
from distillkit.launching import follow_parent
from distillkit.storage import write_text
from distillkit.sweeps.outcomes import has_begun, has_finished

if TYPE_CHECKING:
    from distillkit.shared_teacher import SharedTeacher

_SAME = ("seed", "teacher", "tokenizer", "data", "masking")
_SAME_OF_TRAINER = ("precision", "accelerator", "accumulate_grad_batches")
_SECONDS_BETWEEN_LOOKS = 0.2


class Member(NamedTuple):
    """One of the runs.

    Attributes:
        folder: of the run.
        words: train's, with run.dir; what has begun is resumed.
        config_dir: of the user's own conf files, or None.
        log: file that its output is appended to.
    """

    folder: str
    words: Sequence[str]
    config_dir: str | None
    log: str


def pass_key(cfg: Mapping[str, Any]) -> str | None:
    """Runs of equal keys ask their teacher for the same states; None: this run shares with none.

    Args:
        cfg: settled.
    """
    if cfg["teacher"]["_target_"] is None:
        return None
    same = {name: cfg[name] for name in _SAME} | {name: cfg["trainer"][name] for name in _SAME_OF_TRAINER}
    return json.dumps(same, sort_keys=True)


def write_members(file: Path, members: Sequence[Member]) -> None:
    """Writes the file that `run_together` reads, and forgets what an earlier process told of these runs."""
    ended_file(file).unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps([member._asdict() for member in members], indent=1) + "\n")


def ended_file(file: Path) -> Path:
    """Exit codes of the runs that have ended, by the folder's name: JSON, written whole at each end."""
    return file.with_suffix(".ended")


def read_ended(file: Path) -> dict[str, int]:
    """What `ended_file` tells so far."""
    told = ended_file(file)
    return json.loads(told.read_text()) if told.is_file() else {}


def run_together(file: Path) -> int:
    """Trains or resumes every run of a file. One that fails leaves the others alone; a signal stops all, saved.

    Args:
        file: of `write_members`; the runs have one `pass_key`.

    Returns:
        0 when all have ended well, else the exit code of the first that has not; `ended_file` has them all.
    """
    from distillkit.building import build_teacher  # late, as the next: they bring torch
    from distillkit.shared_teacher import SharedTeacher

    follow_parent()
    members = [Member(**told) for told in json.loads(file.read_text())]
    waiting = [member for member in members if not has_finished(Path(member.folder))]
    ended = {Path(member.folder).name: 0 for member in members if member not in waiting}
    if waiting:
        machine.use_one_arena()
        cfg = _settled(waiting[0])
        machine.set_up(cfg["run"])
        teacher = build_teacher(cfg)
        assert teacher is not None
        _run_all(waiting, SharedTeacher(teacher, len(waiting)), ended, ended_file(file))
    return next((code for code in ended.values() if code), 0)


def _run_all(members: Sequence[Member], shared: SharedTeacher, ended: dict[str, int], told: Path) -> None:
    """Runs each in a thread of its own; fills `ended` as they end."""

    def work(member: Member) -> None:
        with output.to(member.log), shared.taking_part():
            try:
                _train(member, shared)
                code = 0
            except (Exception, SystemExit) as error:  # Lightning exits where it was interrupted
                code = tell(error)
            ended[Path(member.folder).name] = code
            write_text(told, json.dumps(ended))

    def stop(number: int, frame: Any) -> None:
        shared.stop.asked = True

    output = _OutputByThread(sys.stderr)
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = [threading.Thread(target=work, args=(member,), daemon=True) for member in members]
    try:
        with redirect_stdout(output), redirect_stderr(output):
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(_SECONDS_BETWEEN_LOOKS)  # signals are handled in this thread
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settled(member: Member) -> dict[str, Any]:
    cfg = config.settle(*config.load("train", member.words, member.config_dir))
    validation.validate(cfg)
    return cfg


def _train(member: Member, shared: SharedTeacher) -> None:
    """As the verbs train and resume do."""
    from distillkit import run  # late: it brings Lightning

    if has_begun(Path(member.folder)):
        run.resume(member.folder, [], shared)
    else:
        where = [f"--config-dir={member.config_dir}"] if member.config_dir else []
        run.train(_settled(member), [*where, *member.words], shared)


class _OutputByThread(io.TextIOBase):
    """A text stream that goes where each thread says.

    Args:
        other: for threads that say nothing.
    """

    def __init__(self, other: TextIO) -> None:
        self._other, self._own = other, threading.local()

    @contextmanager
    def to(self, log: str) -> Iterator[None]:
        """What this thread writes in the block is appended to a file."""
        with Path(log).open("a") as self._own.file:
            yield

    def write(self, text: str) -> int:
        """Writes, at once."""
        file: TextIO = getattr(self._own, "file", self._other)
        written = file.write(text)
        file.flush()
        return written
