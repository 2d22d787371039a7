"""What training raised, said as the fault it is."""

from __future__ import annotations

import errno
from multiprocessing import Pipe
from pathlib import Path

import pytest
import torch

from distillkit.errors import StorageError
from distillkit.training.faults import as_fault


def caught(kind: type[Exception], *args: object) -> Exception:
    try:
        raise kind(*args)
    except kind as error:
        return error


def test_fault_is_a_dead_worker_when_a_pipe_between_processes_broke() -> None:
    ours, theirs = Pipe()
    theirs.close()
    with pytest.raises(EOFError) as broken:
        ours.recv()
    assert str(as_fault(broken.value, 2)).startswith("a data worker died")
    assert as_fault(broken.value, 0) is broken.value
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert str(as_fault(killed, 0)).startswith("a data worker died: DataLoader worker (pid 7)")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.1]:24784: Connection reset by peer."),
        torch.distributed.DistNetworkError("The client socket has failed to connect"),
    ],
)
def test_fault_is_a_lost_process_of_the_run_when_ranks_cannot_meet(error: Exception) -> None:
    fault = as_fault(error, 0)
    assert isinstance(fault, StorageError) and "\n" not in str(fault)
    assert str(fault).startswith("another process of the run has ended, or cannot be reached: ")


@pytest.mark.parametrize("error", [ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), EOFError("end")])
def test_fault_is_no_dead_worker_when_another_connection_broke(error: Exception) -> None:
    assert "worker" not in str(as_fault(error, 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_fault_names_the_file_and_does_not_speak_of_writing_when_a_file_has_gone(workers: int, tmp_path: Path) -> None:
    missing = tmp_path / "rows.arrow"
    with pytest.raises(FileNotFoundError) as gone:
        missing.open()
    text = str(as_fault(gone.value, workers))
    assert text.startswith(f"file={missing}: reading or writing failed: No such file or directory; fix: ")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG])
def test_fault_says_that_nothing_can_be_written_when_the_disk_refuses(number: int) -> None:
    fault = as_fault(OSError(number, "reason", "metrics.csv"), 0)
    assert isinstance(fault, StorageError)
    assert str(fault).startswith("file=metrics.csv: cannot be written: reason; fix: ")


@pytest.mark.parametrize(
    "error",
    [
        OSError("short read"),
        FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.\nTraceback\nshort read"),
    ],
)
def test_fault_shows_the_message_alone_when_the_system_names_neither_file_nor_reason(error: OSError) -> None:
    assert str(as_fault(error, 2)) == "reading or writing failed: short read; fix: distillkit resume RUN_DIR"


def test_error_stays_what_it_is_when_no_fault_of_the_machine() -> None:
    error = caught(RuntimeError, "shape mismatch")
    assert as_fault(error, 2) is error
