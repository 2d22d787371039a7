"""scripts/measure_latency.py: when two measurements agree, and the whole of it with a tiny model."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults.harness import CHECKOUT, make_bert

SCRIPT = CHECKOUT / "scripts" / "measure_latency.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measure_latency", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("figures", "difference", "agrees"),
    [
        ([(10.0, 0.05), (10.5, 0.01)], 0.05, True),
        ([(10.0, 0.04), (10.5, 0.01)], 0.05, False),
        ([(10.0, 0.04), (10.5, 0.06)], 0.05, True),
        ([(10.0, 0.02), (10.0, 0.9), (11.0, 0.03)], 0.1, False),
    ],
    ids=["within the first's", "beyond both", "within the second's", "two agree through a third alone"],
)
def test_measurements_agree_when_medians_differ_by_no_more_than_the_larger_spread(
    figures: list[tuple[float, float]], difference: float, agrees: bool, script: ModuleType
) -> None:
    found = script.compared([{"median": median, "spread": spread} for median, spread in figures])
    assert found["difference"] == pytest.approx(difference) and found["agrees"] is agrees
    assert (found["medians"], found["spreads"]) == tuple(map(list, zip(*figures, strict=True)))


@pytest.mark.slow
def test_latencies_are_recorded_when_measured_twice(tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path / "model")
    words = [str(tmp_path / "model"), "--times", "2", "--out", str(tmp_path / "deep" / "latency.json")]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=False, env=environment
    )
    found = json.loads((tmp_path / "deep" / "latency.json").read_text())
    assert list(found["models"]) == ["model"] and len(found["models"]["model"]["medians"]) == 2
    assert done.returncode == (0 if found["models"]["model"]["agrees"] else 1), done.stderr
    assert "model" in done.stdout and found["measured"]["threads"] == 1
