"""The roof: measured without a trace, taken from the data sheet where there is one, and only once a run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillkit import roof

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roof, "SIZES", {"cpu": (32, 64)})
    monkeypatch.setattr(roof, "SECONDS", 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_roof_is_that_of_the_fastest_product_when_measured(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([9.0, 4.0, 2.0, 1.0, 9.0, 8.0, 4.0, 16.0])  # of each size a first one that does not count
    clock = iter([0.0, 9.0, 0.0, 9.0])
    monkeypatch.setattr(roof, "_seconds", lambda product, device: (product(), next(seconds))[1])
    monkeypatch.setattr(roof.time, "perf_counter", lambda: next(clock))
    assert roof.probe_roof(CPU, dtype) == max(2 * 32**3 / 1.0, 2 * 64**3 / 4.0)


def test_roof_leaves_randomness_and_settings_alone_when_measured() -> None:
    torch.manual_seed(3)
    before, expected = (torch.get_num_threads(), torch.get_default_dtype()), torch.rand(4)
    torch.manual_seed(3)
    assert roof.probe_roof(CPU, torch.float32) > 1e6
    assert (torch.get_num_threads(), torch.get_default_dtype()) == before
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(("known", "expected"), [(312e12, 312e12), (None, 7.0)])
def test_roof_is_the_data_sheets_when_lightning_knows_the_gpu(
    known: float | None, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roof, "get_available_flops", lambda device, dtype: known)
    monkeypatch.setattr(roof, "_measured", lambda device, dtype: 7.0)
    assert roof.probe_roof(torch.device("cuda"), torch.bfloat16) == expected


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16-mixed", torch.bfloat16), ("bf16", torch.bfloat16), ("bf16-true", torch.bfloat16), (32, torch.float32),
     ("32-true", torch.float32), ("64-true", torch.float64), ("64", torch.float64)],
)  # fmt: skip
def test_dtype_is_what_products_are_computed_in_when_named_by_precision(precision: Any, dtype: torch.dtype) -> None:
    assert roof.compute_dtype(str(precision)) is dtype


def test_roof_is_measured_anew_when_the_known_one_is_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(roof, "probe_roof", lambda device, dtype: next(values))
    first = roof.describe_roof(CPU, "32-true")
    assert first == {
        "device": "cpu", "dtype": "float32", "threads": torch.get_num_threads(), "flops_per_second": 1.0,
    }  # fmt: skip
    assert roof.describe_roof(CPU, "32-true", first) == first
    assert roof.describe_roof(CPU, "bf16-mixed", first)["flops_per_second"] == 2.0
    assert roof.describe_roof(CPU, "32-true", first | {"threads": 99})["flops_per_second"] == 3.0
