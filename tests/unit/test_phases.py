"""The clock of a step's phases, on a clock made by hand and with marks that a device has not passed yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from distillkit import phases
from distillkit.phases import NAMES, OTHER, PAUSED, PHASES, PhaseClock, advise, phase, run_clock, shares

CPU = torch.device("cpu")


class Device:
    """A device's timeline: `now` is where the host is, `passed` how far the device is."""

    def __init__(self) -> None:
        self.now, self.passed, self.waits, self.asked = 0.0, float("inf"), 0, 0

    def mark(self) -> Any:
        return _Mark(self, self.now)


class _Mark:
    def __init__(self, device: Device, at: float) -> None:
        self.device, self.at = device, at

    def query(self) -> bool:
        self.device.asked += 1
        return self.at <= self.device.passed

    def synchronize(self) -> None:
        self.device.waits += 1
        self.device.passed = max(self.device.passed, self.at)

    def elapsed_time(self, end_event: _Mark) -> float:
        assert end_event.at <= self.device.passed, "read before the device was there"
        return (end_event.at - self.at) * 1000


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device()
    monkeypatch.setattr(phases, "HostMark", made.mark)
    yield made
    run_clock(None)


def test_names_are_those_of_the_phases_when_shown() -> None:
    assert list(NAMES) == [*PHASES, OTHER]


def test_phases_add_up_to_the_time_when_one_stands_in_another(device: Device) -> None:
    clock = PhaseClock(CPU)
    run_clock(clock)
    device.now = 1.0
    with phase("optimizer"):
        device.now = 3.0
        with phase("loss"):
            device.now = 4.0
            with phase("teacher"):
                device.now = 8.0
            device.now = 16.0
        device.now = 32.0
    device.now = 64.0
    found = clock.read()
    assert {name: value for name, value in found.items() if value} == {
        "optimizer": 2.0 + 16.0, "loss": 1.0 + 8.0, "teacher": 4.0, OTHER: 1.0 + 32.0,
    }  # fmt: skip
    assert sum(found.values()) == 64.0 and not any(clock.read().values())


def test_phase_ends_when_its_block_fails(device: Device) -> None:
    clock = PhaseClock(CPU)
    run_clock(clock)
    with pytest.raises(RuntimeError), phase("backward"):
        device.now = 1.0
        raise RuntimeError
    device.now = 3.0
    found = clock.read()
    assert (found["backward"], found[OTHER]) == (1.0, 2.0)


def test_pause_counts_nowhere_when_read(device: Device) -> None:
    clock = PhaseClock(CPU)
    clock.switch(PAUSED)
    device.now = 5.0
    clock.switch(OTHER)
    device.now = 6.0
    assert {name: value for name, value in clock.read().items() if value} == {OTHER: 1.0}


def test_phase_is_the_same_nothing_when_no_clock_runs() -> None:
    assert phase("data") is phase("loss")
    with phase("data"), phase("loss"):
        pass


def test_device_is_waited_for_at_a_reading_only_when_it_lags(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_PENDING", 8)
    device.passed = 0.0
    clock = PhaseClock(CPU)
    run_clock(clock)
    for _ in range(20):
        with phase("backward"):
            device.now += 1.0
    assert device.waits == 0 and device.asked > 0
    device.passed = 10.0
    assert clock.read()["backward"] == 20.0 and device.waits == 1


def test_marks_are_let_go_when_the_device_has_passed_them(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "_PENDING", 8)
    clock = PhaseClock(CPU)
    run_clock(clock)
    for _ in range(1000):
        with phase("loss"):
            device.now += 1.0
    assert len(clock._marks) <= 9 and clock.read()["loss"] == 1000.0


def config(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "data": {"num_workers": 2}, "checkpoint": {"every_n_steps": 50}, "loss": {"positions": "predicted"},
        "teacher": {"path": "demo", "dtype": "float32"},
        "trainer": {"log_every_n_steps": 10, "accumulate_grad_batches": 4, "precision": "bf16-mixed"},
    }  # fmt: skip
    for name, value in changes.items():
        group, _, key = name.partition("__")
        made[group] |= {key: value}
    return made


@pytest.mark.parametrize(
    ("seconds", "changes", "said"),
    [
        ({"data": 3, "backward": 7}, {}, "Waiting for data takes 30% of a step: raise data.num_workers (now 2)."),
        ({"checkpoint": 2, "data": 0.5, "backward": 7}, {}, "raise checkpoint.every_n_steps (now 50)"),
        ({"other": 4, "backward": 6}, {}, "raise trainer.log_every_n_steps (now 10)"),
        ({"teacher": 5, "backward": 5}, {"teacher__cache": None}, "keep its states with teacher.cache=DIR"),
        ({"teacher": 5, "backward": 5}, {}, "set teacher.dtype=bfloat16"),
        ({"teacher": 5, "backward": 5}, {"teacher__dtype": "bfloat16"}, "models' own arithmetic"),
        ({"teacher": 5, "backward": 5}, {"teacher__cache": "somewhere"}, "models' own arithmetic"),
        ({"loss": 5, "backward": 5}, {"loss__positions": "all"}, "set loss.positions=predicted"),
        ({"loss": 5, "backward": 5}, {}, "models' own arithmetic"),
        ({"optimizer": 5, "backward": 5}, {}, "trainer.accumulate_grad_batches (now 4)"),
        ({"backward": 5, "forward": 5}, {"trainer__precision": "32-true"}, "try trainer.precision=bf16-mixed"),
        ({}, {}, "models' own arithmetic"),
    ],
)
def test_advice_names_the_key_of_the_first_large_phase_when_asked(
    seconds: dict[str, float], changes: dict[str, Any], said: str
) -> None:
    assert said in advise(seconds, config(**changes))


def test_shares_name_the_largest_first_when_some_are_small() -> None:
    assert shares({"data": 0.5, "backward": 9.0, "teacher": 0.4, "loss": 0.1}) == (
        "student backward 90%, waiting for data 5%"
    )
    assert shares({}) == ""
