"""The verb report on a sweep, with runs as train leaves them."""

from __future__ import annotations

import json
from pathlib import Path

from distillkit.sweeps.readings import HELD_OUT
from tests.faults.fixtures import Call
from tests.faults.harness import Inputs
from tests.unit.sweeps.example import arm, ledger

SHORT = ["data.max_length=48", "data.batch_size=8", "trainer.max_steps=6", "trainer.val_check_interval=3"]


def test_report_shows_the_sweep_when_its_runs_were_trained(call: Call, inputs: Inputs, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    made = ledger(
        arm("full"), arm("no_ce", 0, "loss.alpha=0"), arm("no_mlm", 0, "loss.beta=0", status="queued"),
        name="loss_weights", baseline="full", seeds=[0],
    )  # fmt: skip
    made.shared = [*inputs.words(), *SHORT, f"teacher.cache={tmp_path / 'states'}"]
    for one in made.arms[:2]:
        words = [*made.shared, *one.words, f"seed={one.seed}", f"run.dir={sweep / one.folder}"]
        assert call("train", *words).code == 0
    made.write(sweep)
    result = call("report", str(sweep), "--json")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts == json.loads((sweep / "sweep_results.json").read_text())
    told = json.loads((sweep / made.arms[1].folder / "evaluation.json").read_text())["student"]
    assert facts["arms"][1]["figures"] == {name: told[name] for name in HELD_OUT if name in told}
    assert facts["varied"]["loss.alpha"] == [0, 5.0] and facts["teacher_rows"]["had"] > 0
    assert [len(curve) for curve in facts["curves"]["valid/kl"].values()] == [2, 2]
    assert facts["arms"][1]["command"].startswith("distillkit train ") and "run.dir" not in facts["arms"][1]["command"]
    (page, shown) = (sweep / "sweep_report.html").read_text(), call("report", str(sweep), f"output={tmp_path / 'page'}")
    assert "no_mlm" in page and "2 of 3 runs done" in shown.out and (tmp_path / "page" / "sweep_report.md").is_file()


def test_report_is_refused_in_one_line_when_a_sweep_stands_beside_a_run(call: Call, tmp_path: Path) -> None:
    ledger().write(tmp_path)
    result = call("report", str(tmp_path), "run")
    (line,) = result.err.splitlines()
    assert result.code == 2 and "a sweep has a page of its own" in line
