"""The page's part on speed: its table, its sentence and its figures."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.report.figures import draw
from distillkit.report.history import read_speed
from distillkit.report.page import as_markdown, speed_table
from tests.unit.report.conftest import METRICS_TEXT, PHASE_SECONDS, config


@pytest.fixture
def found(report: Path) -> dict[str, Any]:
    return json.loads((report / "report.json").read_text())


def test_page_tells_where_a_step_goes_and_what_to_change_when_runs_measured_it(report: Path) -> None:
    lines = (report / "report.md").read_text().splitlines()
    assert "| tokens/s, median | 1,008 | 1,008 | 1,008 |" in lines
    assert "| share of the roof, median | 50% | 50% | 50% |" in lines
    assert "| GFLOP/s, median | 8.0 | 8.0 | 8.0 |" in lines
    assert "| a step, mean | 2 s | 2 s | 2 s |" in lines
    assert "| student backward | 0.5 s (25%) | 0.5 s (25%) | 0.5 s (25%) |" in lines
    assert "- albert: Waiting for data takes 12% of a step: raise data.num_workers (now 0)." in lines
    images = [line for line in lines if line.startswith("![") and "speed_" in line]
    assert [image.partition("(figures/")[2] for image in images] == [
        "speed_phases_light.png)", "speed_tokens_per_second_light.png)", "speed_mfu_light.png)",
    ]  # fmt: skip


def test_page_is_silent_on_speed_when_no_run_measured_it(found: dict[str, Any]) -> None:
    facts = copy.deepcopy(found)
    for run in facts["runs"].values():
        run["speed"] = dict.fromkeys(run["speed"])
        run["curves"] = {name: curve for name, curve in run["curves"].items() if not name.startswith("speed/")}
    assert speed_table(facts) == []
    drawings = draw(facts)
    assert "## Speed" not in as_markdown(facts, drawings) and "speed" not in {d.section for d in drawings}


def test_page_shows_the_runs_that_measured_when_one_did_not(found: dict[str, Any]) -> None:
    facts = copy.deepcopy(found)
    facts["runs"]["albert"]["speed"] = dict.fromkeys(facts["runs"]["albert"]["speed"])
    assert dict(speed_table(facts))["teacher"] == ["0.5 s (25%)", "-", "0.5 s (25%)"]
    assert "speed_phases" in {drawing.name for drawing in draw(facts)}


def test_speed_leaves_the_first_window_out_when_there_are_more(tmp_path: Path) -> None:
    path, settings = tmp_path / "metrics.csv", config(None, {})
    path.write_text(METRICS_TEXT)
    found = read_speed(path, settings)
    assert (found["tokens_per_second"], found["mfu"], found["phases"]) == (1008, 0.5, PHASE_SECONDS)
    path.write_text("".join(METRICS_TEXT.splitlines(keepends=True)[:2]))
    assert read_speed(path, settings)["tokens_per_second"] == 1002
    assert set(read_speed(tmp_path / "absent.csv", settings).values()) == {None}
