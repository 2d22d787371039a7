"""What a model costs to use on this machine: bytes on disk, CPU latency of one text, peak memory.

`python -m distillkit.evaluation.efficiency MODEL` prints the memory of a fresh process that uses the model as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from distillkit.heads import encode
from distillkit.machine import MEGABYTE, peak_memory
from distillkit.progress import activity
from distillkit.teachers import load_model

LENGTH = 128
ROUNDS, WARM_UP, BLOCKS = 60, 10, 10
SECONDS_PER_MODEL = 15.0


def measure_efficiency(models: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Size, latency and memory of several models, measured side by side.

    Args:
        models: name -> a folder or hub name of a masked-LM model, or "demo".

    Returns:
        name -> disk_bytes (of the stored weights), latency_ms (`latency`), peak_memory_mb, model_memory_mb
        and memory_failure (`memory_of`).

    Raises:
        TeacherError: a model does not load.
    """
    loaded = {name: load_model(path, key="MODEL_DIR") for name, path in models.items()}
    sizes = {name: disk_bytes(path, loaded[name]) for name, path in models.items()}
    with activity("measuring latency"):
        latencies = latency(loaded)
    del loaded
    with activity("measuring memory"), ThreadPoolExecutor(2) as pool:
        memories = dict(zip(models, pool.map(memory_of, models.values()), strict=True))
    return {name: {"disk_bytes": sizes[name], "latency_ms": latencies[name], **memories[name]} for name in models}


def disk_bytes(path: str, model: PreTrainedModel) -> int:
    """Bytes of a model's stored weights: of its safetensors, or what they would be where there is no folder.

    Args:
        path: a folder, or anything else.
        model: the model.
    """
    files = list(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    if files:
        return sum(file.stat().st_size for file in files)
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def latency(
    models: Mapping[str, PreTrainedModel], *, length: int = LENGTH, rounds: int = ROUNDS
) -> dict[str, dict[str, Any]]:
    """Time of one forward pass of each encoder (without the masked-LM head) over one text, on the CPU.

    The models take turns, so that whatever else the machine does meets them alike.

    Args:
        models: name -> model, in the dtype to measure.
        length: tokens of the text; fewer where a model has fewer positions.
        rounds: at most; a slow model gets fewer, at least BLOCKS.

    Returns:
        name -> median and p95 in ms; spread, by how much of the median the medians of BLOCKS consecutive blocks of
        rounds differ at most; length, batch, threads, rounds.
    """
    calls = {name: _call(model, length) for name, model in models.items()}
    slowest = max(max(_seconds(call) for _ in range(WARM_UP)) for call in calls.values())
    rounds = max(BLOCKS, min(rounds, int(SECONDS_PER_MODEL / (2 * slowest))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            _seconds(call)  # twice a round: the caches are the model's own again
            times[name].append(_seconds(call) * 1000)
    shape = {"length": length, "batch": 1, "threads": torch.get_num_threads(), "rounds": rounds}
    return {name: _summary(values) | shape for name, values in times.items()}


def _call(model: PreTrainedModel, length: int) -> Callable[[], Any]:
    config = model.config
    generator = torch.Generator().manual_seed(0)
    positions = min(length, getattr(config, "max_position_embeddings", length))
    ids = torch.randint(config.vocab_size, (1, positions), generator=generator)
    model.eval()
    return lambda: encode(model, ids, None)


def _seconds(call: Callable[[], Any]) -> float:
    with torch.no_grad():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start


def _summary(times: Sequence[float]) -> dict[str, float]:
    median = statistics.median(times)
    size = len(times) // BLOCKS
    blocks = [statistics.median(times[i * size : (i + 1) * size]) for i in range(BLOCKS)]
    return {
        "median": median,
        "p95": statistics.quantiles(times, n=20, method="inclusive")[-1],
        "spread": (max(blocks) - min(blocks)) / median,
    }


def memory_of(path: str) -> dict[str, Any]:
    """Peak resident memory of a fresh process that loads a model and reads one text of LENGTH tokens.

    Args:
        path: as load_model takes it.

    Returns:
        peak_memory_mb, and model_memory_mb: what of it came after the imports. MB of 10^6 bytes. Both None when the
        process failed, and memory_failure: how; None when it did not.
    """
    command = [sys.executable, "-m", "distillkit.evaluation.efficiency", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout) | {"memory_failure": None}
    said = done.stderr.strip().splitlines()[-1:] if done.returncode > 0 else []  # a killed process says nothing of it
    how = said[0] if said else f"killed by signal {-done.returncode}"
    return {"peak_memory_mb": None, "model_memory_mb": None, "memory_failure": how}


def _use(path: str) -> dict[str, float]:
    before = peak_memory()
    model = load_model(path, key="MODEL_DIR")
    _seconds(_call(model, LENGTH))
    peak = peak_memory()
    return {"peak_memory_mb": peak / MEGABYTE, "model_memory_mb": (peak - before) / MEGABYTE}


if __name__ == "__main__":
    print(json.dumps(_use(sys.argv[1])))
