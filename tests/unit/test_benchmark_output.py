"""scripts/benchmark.py: a whole measurement of tiny models, and what is written and said of it. No time is judged."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from scripts import benchmark, update_readme
from scripts.benchmarking import batches, notes, recipes, roof, rounds, step, tables

# --- the whole ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def section(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `benchmark.py step` writes for tiny models over random ids, and the folder it writes to."""
    folder = tmp_path_factory.mktemp("benchmark")
    words = f"step --shape tiny --minutes 0 --dropout 0.1 --batches random --no-memory --output {folder} --contenders"
    args = benchmark.parse([*words.split(), "ours_bf16_all", "ours_fp32_predicted"])
    args.kept = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roof, "_SHAPES", ((256, 64, 64),))
        patch.setattr(step, "demo_tokenizer", lambda: None)
        patch.setattr(batches, "real_batches", lambda *_: [batches.random_batch(2, 16, 30_522)])
        assert args.run(args) == 0
    results = json.loads((folder / benchmark.JSON).read_text())
    return results["step"]["tiny"] | {"folder": folder, "results": results}


def test_step_writes_figures_and_pictures_when_run(section: dict[str, Any]) -> None:
    (case,) = section["cases"]
    assert list(case["contenders"]) == ["ours_bf16_all", "ours_fp32_predicted", "original_all"]
    assert case["rounds"] == rounds.FEWEST and case["contenders"]["original_all"]["ratio"]["median"] == 1.0
    assert all(best > 0 for best in section["roof"].values())
    row = case["contenders"]["ours_bf16_all"]
    assert row["of_roof"]["bf16"] == pytest.approx(row["flops_per_second"] / section["roof"]["bf16"])
    assert section["losses"]["ours_fp32_predicted"]["agrees"] is True
    names = sorted(path.name for path in section["folder"].glob("*.png"))
    assert names == [f"benchmark_tiny_random_dropout_01_{theme}.png" for theme in ("dark", "light")]


def test_sections_stand_side_by_side_when_written_one_after_the_other(tmp_path: Path) -> None:
    args = SimpleNamespace(output=tmp_path, kept=True)
    for place in (("step", "base"), ("step", "small"), ("loop", "demo")):
        benchmark._record(args, place, {"name": place})
    results = json.loads((tmp_path / benchmark.JSON).read_text())
    assert set(results["step"]) == {"base", "small"} and results["loop"]["demo"]["machine"]["kept_freed_memory"]


def test_tables_fit_140_columns_when_printed(section: dict[str, Any]) -> None:
    section = section | {"memory_mb": {"original_all": 123456.0}}
    out = io.StringIO()
    for table in (*tables.case_tables(section), tables.facts_table(section)):
        Console(file=out, width=200).print(table)
    text = out.getvalue()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 140
    assert "distillkit bf16, all" in text and "1.00 (1.00-1.00)" in text and "123,456" in text and "…" not in text


def test_readme_table_shows_speed_ratio_and_roof_when_rendered(section: dict[str, Any]) -> None:
    text = update_readme.benchmark_table(section["results"])
    (row,) = (line for line in text.splitlines() if line.startswith("| distillkit bf16, all"))
    ratio = section["cases"][0]["contenders"]["ours_bf16_all"]["ratio"]["median"]
    assert f"{ratio:.1f}x" in row and row.endswith("| - |") and "GFLOP/s" in text


def test_benchmark_reaches_the_readme_when_recorded(
    section: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_readme, "FIGURES", tmp_path)
    update_readme.record_benchmark(section["folder"])
    assert {path.name for path in tmp_path.iterdir()} == {
        "benchmark.json", "benchmark_dark.png", "benchmark_light.png"
    }  # fmt: skip
    monkeypatch.setattr(update_readme, "TABLES", {"benchmark": update_readme.benchmark_table})
    assert "distillkit bf16, all" in update_readme.filled("<!-- benchmark table -->\nold\n<!-- end -->")


# --- notes -------------------------------------------------------------------------------------------------------


def peers_at(factor: float, **others: float) -> dict[str, Any]:
    """A section in which every peer's share is the earlier one times a factor, or times its own."""
    rows = {
        name: {"of_roof": {"bf16": known.share * others.get(name, factor)}, "ratio": {"median": known.ratio}}
        for name, known in notes.EARLIER.items()
    }
    facts = {"shape": "base", "roof": {"fp32": 1e11, "bf16": 2e11}, "plain_fp32": 9e10, "threads": 2}
    titles = {name: recipe.title for name, recipe in recipes.RECIPES.items()}
    return facts | {"titles": titles, "cases": [{"batches": "random", "contenders": rows}]}


@pytest.mark.parametrize(
    ("section", "common", "apart"),
    [(peers_at(1.15), False, None), (peers_at(1.9), True, None), (peers_at(1.0, textbrewer=0.6), False, "TextBrewer")],
    ids=["within", "all", "one"],
)
def test_notes_tell_the_machine_from_a_peer_when_shares_are_off(
    section: dict[str, Any], common: bool, apart: str | None
) -> None:
    text = "\n".join(notes.of(section, True))
    assert ("common to them" in text and "90% of the float32 roof" in text) is common
    found = re.search("to be looked at: (.*)", text)
    assert (found and found[1].startswith(apart)) if apart else found is None
    assert ("all within 20%" in text) is not (common or bool(apart))
    assert notes.of(section | {"shape": "small"}, True) == []
