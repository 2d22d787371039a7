"""Hidden states as bytes, in fewer than they were computed in: what the teacher cache stores."""

from __future__ import annotations

import torch
from torch import Tensor

CACHE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_STEPS = 127


def bytes_per_token(width: int, dtype: str) -> int:
    """Bytes of one token's hidden states: 4, 2 or 1 for each, and with int8 4 for its scale.

    Args:
        width: H.
        dtype: one of CACHE_DTYPES.
    """
    return width * CACHE_DTYPES[dtype].itemsize + (4 if dtype == "int8" else 0)


def to_bytes(hidden: Tensor, dtype: str) -> Tensor:
    """Rounds hidden states.

    Args:
        hidden: [N, H] in any float dtype.
        dtype: one of CACHE_DTYPES; int8 keeps 127 steps to both sides of 0 up to the largest entry of the token.

    Returns:
        [N, bytes_per_token] uint8, on the same device.
    """
    if dtype != "int8":
        return hidden.to(CACHE_DTYPES[dtype]).contiguous().view(torch.uint8)
    values = hidden.float()
    scale = values.abs().amax(1, keepdim=True).clamp_min(1e-30) / _STEPS
    steps = (values / scale).round().clamp(-_STEPS, _STEPS).to(torch.int8)
    return torch.cat([steps.view(torch.uint8), scale.view(torch.uint8)], dim=1)


def from_bytes(stored: Tensor, dtype: str, result: torch.dtype) -> Tensor:
    """The rounded hidden states.

    Args:
        stored: [N, bytes_per_token] uint8, contiguous.
        dtype: it was stored in.
        result: dtype of what is returned.

    Returns:
        [N, H].
    """
    if dtype != "int8":
        return stored.view(CACHE_DTYPES[dtype]).to(result)
    scale = stored[:, -4:].contiguous().view(torch.float32)
    return (stored[:, :-4].view(torch.int8).float() * scale).to(result)
