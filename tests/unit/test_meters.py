"""The running means of loss terms."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit.meters import TermMeter
from distillkit.types import LossSum


def sums(total: float, count: int) -> LossSum:
    return LossSum(torch.tensor(total), torch.tensor(count))


def test_meter_gives_mean_over_positions_when_micro_batches_differ_in_size() -> None:
    meter = TermMeter(["ce", "mlm"])
    meter.update({"mlm": sums(1.0, 1), "ce": sums(8.0, 4)})
    meter.update({"mlm": sums(5.0, 2), "ce": sums(2.0, 1)})
    assert meter.means() == {"ce": 2.0, "mlm": 2.0}


def test_meter_leaves_term_out_when_nothing_was_counted() -> None:
    meter = TermMeter(["ce", "mlm"])
    meter.update({"ce": sums(3.0, 2), "mlm": sums(0.0, 0)})
    assert meter.means() == {"ce": 1.5}


def test_meter_starts_anew_when_reset() -> None:
    meter = TermMeter(["ce"])
    meter.update({"ce": sums(3.0, 2)})
    meter.reset()
    assert meter.means() == {}
    meter.update({"ce": sums(7.0, 1)})
    assert meter.means() == {"ce": 7.0}


def test_meter_keeps_small_addends_when_the_sum_is_large() -> None:
    meter = TermMeter(["ce"])
    meter.update({"ce": sums(2.0**24, 1)})
    meter.update({"ce": sums(1.0, 1)})
    assert meter.means() == {"ce": (2.0**24 + 1) / 2}


def test_meter_divides_after_adding_up_ranks_when_reduced() -> None:
    meter = TermMeter(["ce"])
    meter.update({"ce": sums(3.0, 1)})

    def add_other_rank(own: Tensor) -> Tensor:
        return own + torch.tensor([[1.0], [3.0]], dtype=torch.float64)

    assert meter.means(add_other_rank) == {"ce": 1.0}
