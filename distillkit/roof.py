"""The roof: how many operations a second a device can do at its best, which a training step is measured against."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from lightning_fabric.utilities.throughput import get_available_flops
from torch import Tensor

from distillkit.progress import activity

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
"""Sides of the square matrices that are multiplied; the largest take 50 MB on a CPU, 800 MB on a GPU."""
SECONDS = 1.0
_FEWEST = 3

_PRECISIONS = {"64": torch.float64, "bf16": torch.bfloat16}


def compute_dtype(precision: str) -> torch.dtype:
    """What the matrix products of a trainer.precision are computed in: "bf16-mixed" -> bfloat16."""
    return _PRECISIONS.get(precision.partition("-")[0], torch.float32)


def describe_roof(device: torch.device, precision: Any, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The roof of a run, with what it holds for.

    Args:
        device: of the run.
        precision: trainer.precision.
        known: an earlier result, taken over when it holds for the same.

    Returns:
        device (a GPU's name, or "cpu"), dtype, threads, flops_per_second (of one device).
    """
    dtype = compute_dtype(str(precision))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    holds_for = {"device": name, "dtype": str(dtype).removeprefix("torch."), "threads": torch.get_num_threads()}
    if known is not None and holds_for.items() <= known.items():
        return dict(known)
    with activity("measuring what the machine can do"):
        return holds_for | {"flops_per_second": probe_roof(device, dtype)}


def probe_roof(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second at best: a GPU's data sheet where Lightning knows it, else measured in about a second.

    Measured: the fastest of a few products of large matrices, a multiply-add counted as two. Neither the random state
    nor a setting of torch is touched.

    Args:
        device: the one that computes.
        dtype: of the products.

    Returns:
        FLOP/s of this one device, on a CPU with the threads of this process.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each chip it does not know
        known = get_available_flops(device, dtype) if device.type == "cuda" else None
    return float(known) if known else _measured(device, dtype)


def _measured(device: torch.device, dtype: torch.dtype) -> float:
    products = list(_products(device, dtype))
    best = 0.0
    for flops, product in products:
        _seconds(product, device)  # the first one chooses its kernel
        end, done = time.perf_counter() + SECONDS / len(products), 0
        while done < _FEWEST or time.perf_counter() < end:
            best = max(best, flops / _seconds(product, device))
            done += 1
    return best


def _products(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[float, Callable[[], Tensor]]]:
    """Operations and call of each product; one size's matrices are parts of the largest one's."""
    sizes = SIZES.get(device.type, SIZES["cpu"])
    generator = torch.Generator(device).manual_seed(0)  # own: the global one is the run's
    left, right = (
        torch.rand(sizes[-1] ** 2, generator=generator, device=device, dtype=torch.float32).to(dtype) for _ in range(2)
    )
    out = torch.empty_like(left)
    for size in sizes:
        a, b, c = (matrix[: size * size].view(size, size) for matrix in (left, right, out))
        yield 2.0 * size**3, lambda a=a, b=b, c=c: torch.mm(a, b, out=c)  # type: ignore[misc]


def _seconds(product: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    product()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
