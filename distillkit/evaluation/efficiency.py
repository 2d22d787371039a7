"""What a model costs to use: bytes on disk, operations, and on this machine's CPU its speed and peak memory.

`python -m distillkit.evaluation.efficiency MODEL` prints the memory of a fresh process that uses the model as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from distillkit.evaluation.speed import LENGTH, common_length, encoder_call, latency, throughput
from distillkit.flops import flops_per_token
from distillkit.machine import MEGABYTE, peak_memory
from distillkit.progress import activity
from distillkit.teachers import load_model


def measure_efficiency(models: Mapping[str, str], *, under_load: bool = False) -> dict[str, dict[str, Any]]:
    """Size, latency and memory of several models, measured side by side.

    Args:
        models: name -> a folder or hub name of a model, or "demo"; its masked-LM head may be missing.
        under_load: also what they do with many texts, which takes about a minute a model of BERT's size.

    Returns:
        name -> disk_bytes (of the stored weights), latency_ms (`latency`), peak_memory_mb, model_memory_mb
        and memory_failure (`memory_of`); under load also throughput, throughput_batch and throughput_threads
        (`throughput`), and flops_per_token (`flops_per_token`).

    Raises:
        TeacherError: a model does not load.
    """
    loaded = {name: load_model(path, key="MODEL_DIR", new_head=True) for name, path in models.items()}
    sizes = {name: disk_bytes(path, loaded[name]) for name, path in models.items()}
    with activity("measuring latency"):
        latencies = latency(loaded)
    more: dict[str, dict[str, Any]] = {name: {} for name in models}
    if under_load:
        with activity("measuring throughput"):
            more = throughput(loaded)
        length = common_length(loaded.values(), LENGTH)
        flops = {name: flops_per_token(model, length=length) for name, model in loaded.items()}
        more = {name: found | {"flops_per_token": flops[name]} for name, found in more.items()}
    del loaded
    with activity("measuring memory"), ThreadPoolExecutor(2) as pool:
        memories = dict(zip(models, pool.map(memory_of, models.values()), strict=True))
    return {
        name: {"disk_bytes": sizes[name], "latency_ms": latencies[name], **memories[name], **more[name]}
        for name in models
    }


def disk_bytes(path: str, model: PreTrainedModel) -> int:
    """Bytes of a model's stored weights: of its safetensors, or what they would be where there is no folder.

    Args:
        path: a folder, or anything else.
        model: the model.
    """
    return stored_bytes(path) or sum(weight.numel() * weight.element_size() for weight in model.parameters())


def stored_bytes(path: str | Path) -> int:
    """Bytes of the safetensors in a folder; 0 where there is no folder, or none in it."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


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
    model = load_model(path, key="MODEL_DIR", new_head=True)
    with torch.no_grad():
        encoder_call(model, 1, LENGTH)[0]()
    peak = peak_memory()
    return {"peak_memory_mb": peak / MEGABYTE, "model_memory_mb": (peak - before) / MEGABYTE}


if __name__ == "__main__":
    print(json.dumps(_use(sys.argv[1])))
