"""Hidden states as bytes: how many, and how much is lost."""

from __future__ import annotations

import pytest
import torch

from distillkit.hidden_bytes import CACHE_DTYPES, bytes_per_token, from_bytes, to_bytes
from distillkit.validation import CACHE_DTYPES as ALLOWED

HIDDEN = torch.randn(50, 24, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 4, 50)[:, None]


@pytest.mark.parametrize(
    ("dtype", "size", "error"), [("float32", 96, 0.0), ("bfloat16", 48, 2**-8), ("int8", 28, 0.5 / 127)]
)
def test_states_come_back_within_their_rounding_when_stored(dtype: str, size: int, error: float) -> None:
    stored = to_bytes(HIDDEN, dtype)
    assert stored.shape == (50, size) and stored.dtype == torch.uint8 and bytes_per_token(24, dtype) == size
    back = from_bytes(stored, dtype, torch.float32)
    largest = HIDDEN.abs().amax(1, keepdim=True)
    assert ((back - HIDDEN).abs() <= (error * 1.001) * largest).all()
    assert torch.equal(to_bytes(back, dtype), stored) or dtype == "int8"


def test_states_are_exact_when_the_teacher_computes_in_the_dtype_of_the_cache() -> None:
    half = HIDDEN.bfloat16()
    assert torch.equal(from_bytes(to_bytes(half, "bfloat16"), "bfloat16", torch.bfloat16), half)


@pytest.mark.parametrize("dtype", CACHE_DTYPES)
def test_states_that_are_not_finite_are_not_hidden_when_stored(dtype: str) -> None:
    hidden = torch.zeros(3, 8)
    hidden[1, 2] = torch.nan
    back = from_bytes(to_bytes(hidden, dtype), dtype, torch.float32)
    assert back[1].isnan().any() and (back[[0, 2]] == 0).all()


def test_allowed_dtypes_are_those_that_can_be_stored_when_validated() -> None:
    assert set(ALLOWED) == set(CACHE_DTYPES)
