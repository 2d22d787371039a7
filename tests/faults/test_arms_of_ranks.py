"""Arms of several processes: with every launcher the weights of the same run without a sweep."""

from __future__ import annotations

from pathlib import Path

import pytest

from distillkit.sweeps.arms import Ledger
from tests.faults.fixtures import Start
from tests.faults.harness import Inputs, Recipe

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]

RANKS = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
LAUNCHERS = {
    "local": ["launcher=local"],
    "submitit": ["launcher=slurm", "launcher.cluster=local", "launcher.cpus=2"],
    "ray": ["launcher=ray", "launcher.cpus_per_arm=2", "launcher.jobs=1"],
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_arm_of_two_ranks_has_the_weights_of_the_plain_run_when_launched(
    name: str, inputs: Inputs, start: Start, tmp_path: Path
) -> None:
    pytest.importorskip(name if name != "local" else "distillkit", reason="is not installed")
    words = Recipe(more=("run.evaluation_batches=1", "trainer.limit_val_batches=0", *RANKS)).words(inputs, every=50)
    place, alone = tmp_path / "sweep", tmp_path / "alone"
    sweep = start("sweep", *words[1:], *LAUNCHERS[name], f"run.dir={place}")
    plain = start(*words, f"run.dir={alone}")
    assert sweep.wait(400) == 0 and plain.wait(400) == 0, sweep.stderr + plain.stderr
    (arm,) = Ledger.read(place).arms
    hashes = [start("hash", str(path)).succeed().stdout for path in (place / arm.folder, alone)]
    assert arm.status == "done" and hashes[0] == hashes[1]
