"""What a model costs to use: size from its files, memory from a process of its own, operations as formulas say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distillkit.evaluation import efficiency
from distillkit.evaluation.examples import fill_masks
from distillkit.hashing import weights_hash
from tests.faults.harness import make_bert, make_tokenizer


def save(folder: Path, **settings: int) -> str:
    make_bert(**settings).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def test_efficiency_is_measured_of_every_model_when_side_by_side(tmp_path: Path) -> None:
    small = save(tmp_path / "small", num_hidden_layers=1)
    large = save(tmp_path / "large", num_hidden_layers=2, hidden_size=512, intermediate_size=8192)
    before = weights_hash(large)
    figures = efficiency.measure_efficiency({"small": small, "large": large})
    assert list(figures) == ["small", "large"]
    for path, found in zip((small, large), figures.values(), strict=True):
        stored = (Path(path) / "model.safetensors").stat().st_size
        assert found["disk_bytes"] == stored
        times = found["latency_ms"]
        assert 0 < times["median"] <= times["p95"] and times["spread"] >= 0 and times["batch"] == 1
        assert found["peak_memory_mb"] > found["model_memory_mb"] > stored / 1e6
    assert figures["large"]["latency_ms"]["median"] > 2 * figures["small"]["latency_ms"]["median"]
    extra = (figures["large"]["disk_bytes"] - figures["small"]["disk_bytes"]) / 1e6
    assert figures["large"]["model_memory_mb"] - figures["small"]["model_memory_mb"] > 0.8 * extra
    assert weights_hash(large) == before
    assert not {"throughput", "flops_per_token"} & figures["small"].keys()


def test_efficiency_tells_throughput_and_operations_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency, "memory_of", lambda path: {"peak_memory_mb": 1.0})  # takes a process a model
    paths = {f"{layers} layers": save(tmp_path / str(layers), num_hidden_layers=layers) for layers in (1, 4)}
    small, large = efficiency.measure_efficiency(paths, under_load=True).values()
    assert [*small["throughput"]] == ["32", "64"] and small["throughput_batch"] == 16
    assert all(small["throughput"][length] > large["throughput"][length] for length in small["throughput"])
    assert large["flops_per_token"] == 4 * small["flops_per_token"]
    assert small["latency_ms"]["length"] == 64 and small["peak_memory_mb"] == 1


@pytest.mark.parametrize(
    ("script", "failure"), [("kill -9 $$", "killed by signal 9"), ("echo 'why: it is' >&2; exit 3", "why: it is")]
)
def test_memory_is_unknown_and_says_why_when_its_process_fails(
    script: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    unknown = {"peak_memory_mb": None, "model_memory_mb": None, "memory_failure": failure}
    assert efficiency.memory_of("model") == unknown


def test_masks_are_filled_as_stock_transformers_fills_them(tmp_path: Path) -> None:
    from transformers import pipeline

    path = save(tmp_path / "model")
    text = "the film was [MASK] and long"
    (row,) = fill_masks({"model": path}, [text], top=3)
    expected = pipeline("fill-mask", path, top_k=3)(text)
    assert row["text"] == text
    found = row["predictions"]["model"]
    assert [p["token"] for p in found] == [p["token_str"] for p in expected]
    assert [p["score"] for p in found] == pytest.approx([p["score"] for p in expected], rel=1e-5)


@pytest.mark.parametrize("text", ["no mask", "[MASK] and [MASK]"])
def test_masks_are_refused_when_there_is_not_exactly_one(text: str) -> None:
    with pytest.raises(ValueError, match="not exactly one"):
        fill_masks({}, [text])
