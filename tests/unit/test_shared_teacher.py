"""Runs that take turns: every pass is computed once, and each run draws what it draws alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distillkit.encoding import takes_rows
from distillkit.phases import HostMark, PhaseClock, run_clock
from distillkit.shared_teacher import SharedTeacher
from distillkit.teachers import Teacher
from distillkit.types import Batch, StepTotals
from tests.faults.harness import make_bert

Run = Callable[[SharedTeacher], None]


class Counting(Teacher):
    """Notes the batches it computes."""

    calls: list[tuple[int, int]]


@pytest.fixture
def teacher() -> Counting:
    counting = Counting(make_bert())
    counting.calls = []
    takes_rows(counting.model)  # tried by two passes of its own
    counting.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: counting.calls.append(tuple(kwargs["input_ids"][0, :2].tolist())), with_kwargs=True
    )
    return counting


def batch(step: int, micro: int = 0, *, row: int = 0) -> Batch:
    ids = torch.full((1, 8), 6)
    ids[0, 0], ids[0, 1] = 10 + step, 20 + row
    return Batch(ids, None, torch.full_like(ids, -100), step, micro, StepTotals(8, 0), sequences=(row,))


def together(teacher: Teacher, *runs: Run) -> tuple[SharedTeacher, list[BaseException]]:
    """Runs each in a thread; the errors they ended with."""
    shared, errors = SharedTeacher(teacher, len(runs)), list[BaseException]()

    def work(run: Run) -> None:
        with shared.taking_part():
            try:
                run(shared)
            except RuntimeError as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(run,), daemon=True) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "waits for ever"
    return shared, errors


def steps(*numbers: int, seen: dict[int, Tensor] | None = None) -> Run:
    def run(shared: SharedTeacher) -> None:
        for number in numbers:
            states = shared.hidden(batch(number))
            if seen is not None:
                seen[number] = states

    return run


def test_pass_is_computed_once_when_runs_ask_for_the_same(teacher: Counting) -> None:
    seen: list[dict[int, Tensor]] = [{}, {}, {}]
    together(teacher, *(steps(0, 1, 2, seen=own) for own in seen))
    assert [first - 10 for first, _ in teacher.calls] == [0, 1, 2]
    for number in range(3):
        alone = teacher.hidden(batch(number))
        assert all(own[number].equal(alone) for own in seen)


def test_run_catches_up_by_itself_when_it_is_behind(teacher: Counting) -> None:
    together(teacher, steps(3, 4, 5), steps(0, 1, 2, 3, 4, 5))
    assert [first - 10 for first, _ in teacher.calls] == [0, 1, 2, 3, 4, 5]


def test_held_out_pass_is_computed_once_when_runs_validate_after_a_step(teacher: Counting) -> None:
    def run(shared: SharedTeacher) -> None:
        for number in (0, 1):
            shared.hidden(batch(number))
            for row in (0, 1):
                shared.hidden(batch(-1, row=row))

    together(teacher, run, run)
    assert [(first - 10, row - 20) for first, row in teacher.calls] == [
        (0, 0),
        (-1, 0),
        (-1, 1),
        (1, 0),
        (-1, 0),
        (-1, 1),
    ]


def test_other_runs_go_on_when_one_fails(teacher: Counting) -> None:
    def fail(shared: SharedTeacher) -> None:
        shared.hidden(batch(0))
        raise RuntimeError("a made fault")

    seen: dict[int, Tensor] = {}
    _, errors = together(teacher, fail, steps(0, 1, 2, seen=seen), steps(0))
    assert [str(error) for error in errors] == ["a made fault"] and list(seen) == [0, 1, 2]


def test_random_numbers_are_those_of_a_run_alone_when_turns_change_in_between(teacher: Counting) -> None:
    drawn: dict[int, list[Tensor]] = {}

    def drawing(seed: int) -> Run:
        def run(shared: SharedTeacher) -> None:
            torch.manual_seed(seed)
            torch.set_default_dtype(torch.float64 if seed else torch.float32)
            drawn[seed] = []
            for number in range(3):
                drawn[seed].append(torch.rand(2))
                shared.hidden(batch(number))
            torch.set_default_dtype(torch.float32)

        return run

    together(teacher, drawing(0), drawing(1))
    for seed, dtype in ((0, torch.float32), (1, torch.float64)):
        torch.manual_seed(seed)
        alone = [torch.rand(2, dtype=dtype) for _ in range(3)]
        assert all(a.equal(b) and a.dtype == b.dtype for a, b in zip(drawn[seed], alone, strict=True))


def test_waiting_for_others_is_no_part_of_a_step_when_a_clock_runs(teacher: Counting) -> None:
    found: list[float] = []

    def timed(shared: SharedTeacher) -> None:
        clock = PhaseClock(torch.device("cpu"))
        run_clock(clock)
        shared.hidden(batch(0))
        found.append(sum(clock.read().values()))

    def slow(shared: SharedTeacher) -> None:
        began: Any = HostMark()
        while began.elapsed_time(HostMark()) < 1000:
            pass
        shared.hidden(batch(0))

    together(teacher, timed, slow)
    assert found[0] < 0.9


def test_facts_tell_what_a_run_had_of_the_others_when_it_has_ended(teacher: Counting) -> None:
    told: list[dict[str, Any]] = []

    def run(shared: SharedTeacher) -> None:
        steps(0, 1)(shared)
        told.append(shared.facts())

    together(teacher, run, run)
    assert sum(facts["passes_computed"] for facts in told) == 2 == sum(facts["passes_taken"] for facts in told)
    assert sum(facts["seconds_computing"] for facts in told) > 0
