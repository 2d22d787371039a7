"""The page of a sweep at any moment: what it counts, what it says, and what it does not claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillkit.report.markup import as_html
from distillkit.sweeps import search_figures
from distillkit.sweeps.arms import Ledger
from distillkit.sweeps.figures import draw
from distillkit.sweeps.report import as_markdown, write_sweep_report
from distillkit.sweeps.results import gather
from distillkit.sweeps.summary import summary
from distillkit.sweeps.tables import arm_table, difference_table, run_table, size_table, trial_table
from tests.unit.sweeps.example import arm, figures, ledger, write_run

ABLATION: dict[str, dict[str, Any]] = {
    "full": {}, "no_ce": {"loss.alpha": 0.0}, "no_mlm": {"loss.beta": 0.0},
}  # fmt: skip
WORDS = {"full": [], "no_ce": ["loss.alpha=0"], "no_mlm": ["loss.beta=0"]}
LOSSES = {"full": [3.0, 3.1, 3.2], "no_ce": [3.5, 3.61, 3.7], "no_mlm": [3.0, 3.3, 3.1]}


@pytest.fixture
def ablation(tmp_path: Path) -> Ledger:
    """Three arms of three seeds, of which one failed; written into tmp_path."""
    made = ledger(
        *(arm(name, seed, *WORDS[name], seconds=10.0, started=0.0, ended=50.0) for seed in (0, 1, 2) for name in WORDS),
        name="loss_weights", baseline="full",
    )  # fmt: skip
    made.arms[-2].status, made.arms[-2].reason = "failed", "error: loss=nan: not finite; fix: lower optimizer.lr"
    for one in made.arms:
        loss = LOSSES[one.name][one.seed]
        write_run(tmp_path, one, loss, changes=ABLATION[one.name], curve=[5.0, loss], rows=(30, 70))
    made.write(tmp_path)
    return made


def test_table_shows_mean_spread_and_reason_when_an_arm_failed(ablation: Ledger, tmp_path: Path) -> None:
    facts = gather(tmp_path)
    rows = dict(arm_table(facts).rows)
    assert rows["full"][:2] == ["3 of 3", "**3.100 ± 0.100**"]
    assert rows["no_ce"][:2] == ["2 of 3: 1 failed", "3.555 ± 0.078"]
    assert rows["no_ce"][-1] == "loss=nan: not finite; fix: lower optimi…"
    differences = dict((difference_table(facts) or pytest.fail()).rows)
    # 0.5 and 0.51: t of one degree of freedom is 12.706, half 12.706 * 0.0070711 / sqrt(2)
    assert differences["no_ce"][0] == "+0.505 [0.441, 0.569] worse"
    assert not differences["no_mlm"][0].endswith(("worse", "better"))
    assert "full" not in differences
    assert "fix: lower optimizer.lr" in as_markdown(facts, [])


def test_sizes_are_shown_with_the_median_step_when_students_differ(tmp_path: Path) -> None:
    made = ledger(arm("all", 0), arm("all", 1), arm("none", 0), arm("none", 1, status="failed"))
    for one in made.arms:
        unique = 10_000 if one.name == "all" else 30_000
        folder = write_run(tmp_path, one, 3.0)
        counts = {"layers": 3, "unique_parameters": unique, "nominal_parameters": 30_000}
        (folder / "evaluation.json").write_text(json.dumps({"student": figures(3.0) | counts}))
        seconds = [0.5 + one.seed, 0.75 + one.seed, 9.0]
        lines = [f"{10 * (place + 1)},{value}\n" for place, value in enumerate(seconds)]
        (folder / "metrics.csv").write_text("step,speed/seconds_per_step\n" + "".join(lines))
        (folder / "student").mkdir()
        (folder / "student" / "model.safetensors").write_bytes(bytes(4 * unique))
    made.write(tmp_path)
    facts = gather(tmp_path)
    rows = dict((size_table(facts) or pytest.fail()).rows)
    assert rows == {"all": ["3", "10,000", "30,000", "0.0", "1.250"], "none": ["3", "30,000", "30,000", "0.1", "0.750"]}
    assert facts["groups"]["none"]["sizes"]["disk_mb"] == 0.12
    assert "| none | 3 | 30,000 | 30,000 |" in as_markdown(facts, [])


def test_sizes_are_left_out_when_the_students_are_equal(ablation: Ledger, tmp_path: Path) -> None:
    facts = gather(tmp_path)
    assert size_table(facts) is None
    assert "How large" not in as_markdown(facts, [])


def test_figures_of_a_failed_run_do_not_count_when_it_left_some(ablation: Ledger, tmp_path: Path) -> None:
    entry = gather(tmp_path)["groups"]["no_ce"]["figures"]["mlm_loss"]
    assert entry["seeds"] == {"0": 3.5, "1": 3.61}


def test_effects_take_values_from_the_runs_when_arms_are_listed(ablation: Ledger, tmp_path: Path) -> None:
    facts = gather(tmp_path)
    assert facts["varied"] == {"loss.alpha": [0.0, 5.0], "loss.beta": [0.0, 2.0]}
    low, high = facts["effects"]["loss.alpha"]["mlm_loss"]
    assert (low["value"], low["seeds"], high["seeds"]) == (0.0, {"0": 3.5, "1": 3.61}, {"0": 3.0, "1": 3.1})
    assert facts["interactions"] == []


def test_summary_claims_what_the_seeds_tell_when_made(ablation: Ledger, tmp_path: Path) -> None:
    text = " ".join(summary(gather(tmp_path)))
    assert "8 of 9 runs done, 1 failed." in text
    assert "Lowest held-out MLM loss: full, 3.100 ± 0.100. The seeds do not tell no_mlm from it." in text
    assert "Against full, held-out MLM loss is worse in no_ce; open in no_mlm." in text


def test_page_holds_everything_when_written(ablation: Ledger, tmp_path: Path) -> None:
    facts = write_sweep_report(tmp_path)
    files = facts.pop("files")
    assert sorted(Path(path).name for path in files.values()) == [
        "sweep_report.html", "sweep_report.md", "sweep_results.json",
    ]  # fmt: skip
    assert json.loads((tmp_path / "sweep_results.json").read_text()) == facts
    text, html = ((tmp_path / f"sweep_report.{end}").read_text() for end in ("md", "html"))
    assert (
        "Saved by sharing: the teacher's states of 270 of 900 rows (30%), about 24 s of computing, had from its cache"
        in text
    )
    assert "## Beside the paper" in text and "Sanh et al. 2019" in text
    assert "distillkit train experiment=demo loss.alpha=0\n" in text
    assert html.count("<details><summary>") == 1 and "http" not in html.replace("http-equiv", "")
    assert {"curves_valid_mlm_loss_dark.png", "effect_loss_alpha_light.png"} <= set(facts["figures"])
    assert all((tmp_path / "figures" / name).is_file() for name in facts["figures"])


def test_nothing_is_claimed_when_nothing_is_done(tmp_path: Path) -> None:
    running = ledger(arm("a", status="running"), arm("b", status="queued"), baseline="a")
    write_run(tmp_path, running.arms[0], curve=[5.0, 4.0])
    running.write(tmp_path)
    facts = write_sweep_report(tmp_path)
    assert (facts["best"], facts["effects"], facts["metrics"]) == ({}, {}, {})
    assert facts["curves"]["valid/mlm_loss"] == {"a": [[10, 5.0, 0.0], [20, 4.0, 0.0]]}
    assert "0 of 2 runs done, 1 running and 1 queued. No run is done yet" in (tmp_path / "sweep_report.md").read_text()
    assert [cells[1:3] for _, cells in run_table(facts).rows] == [["running", "20 of 40"], ["queued", "-"]]


def test_page_is_written_when_all_arms_failed_or_none_is_planned(tmp_path: Path) -> None:
    ledger(arm("a", status="failed", reason="ended with exit code 1")).write(tmp_path)
    assert "ended with exit code 1" in Path(write_sweep_report(tmp_path)["files"]["markdown"]).read_text()
    ledger(method="tpe").write(tmp_path)
    assert write_sweep_report(tmp_path)["groups"] == {}


def test_interval_is_left_out_and_said_when_there_is_one_seed(tmp_path: Path) -> None:
    single = ledger(arm("a"), arm("b"), baseline="a", seeds=[0])
    for one, loss in zip(single.arms, (3.0, 4.0), strict=True):
        write_run(tmp_path, one, loss)
    single.write(tmp_path)
    facts = gather(tmp_path)
    assert dict((difference_table(facts) or pytest.fail()).rows)["b"][0] == "+1.000 [-]"
    assert "With one seed an arm, no difference can be told from chance." in summary(facts)
    assert "one seed in common, which tells no interval" in as_markdown(facts, [])


def test_best_needs_as_many_seeds_as_others_when_one_was_lucky(tmp_path: Path) -> None:
    arms = ledger(arm("a", 0), arm("a", 1), arm("b", 0), arm("b", 1), arm("lucky", 0), arm("lucky", 1, status="queued"))
    for one, loss in zip(arms.arms, (3.0, 3.1, 3.5, 3.6, 1.0), strict=False):
        write_run(tmp_path, one, loss)
    arms.write(tmp_path)
    assert gather(tmp_path)["best"]["mlm_loss"] == ["a"]


def test_figures_are_not_compared_when_texts_differ(tmp_path: Path) -> None:
    mixed = ledger(arm("a"), arm("b"), baseline="a")
    for one, corpus in zip(mixed.arms, ("abc", "other"), strict=True):
        write_run(tmp_path, one, 3.0, corpus=corpus)
    mixed.write(tmp_path)
    facts = gather(tmp_path)
    assert (facts["best"], facts["comparable"], difference_table(facts)) == ({}, False, None)
    assert any("do not compare" in sentence for sentence in summary(facts))


def test_scores_on_tasks_are_shown_when_a_run_was_compared(tmp_path: Path) -> None:
    compared = ledger(arm("a"), arm("b"), baseline="a")
    for one, score in zip(compared.arms, (0.8, 0.9), strict=True):
        write_run(tmp_path, one, 3.0, scores={"sst2": score})
    compared.write(tmp_path)
    facts = gather(tmp_path)
    assert facts["metrics"]["task sst2"] is False and facts["best"]["task sst2"] == ["b"]
    assert dict(arm_table(facts).rows)["b"][-1] == "**90.0**"


def test_search_tells_the_best_so_far_when_a_trial_failed(tmp_path: Path) -> None:
    statuses = ("done", "failed", "done", "pruned", "queued")
    values = ((4.0, 1.0), (9.0, 2.0), (2.0, 3.0), (1.0, 4.0), (7.0, 5.0))
    trials = ledger(
        *(
            arm(f"t{n}", 0, status=status, values={"loss.alpha": alpha, "loss.beta": beta})  # type: ignore[arg-type]
            for n, (status, (alpha, beta)) in enumerate(zip(statuses, values, strict=True))
        ),
        method="tpe", vary={"loss.alpha": "interval(0,10)"},
    )  # fmt: skip
    for one, loss in zip(trials.arms, (3.0, 2.0, 2.5, 1.0), strict=False):
        write_run(tmp_path, one, loss, curve=[5.0, loss])
    trials.write(tmp_path)
    facts = gather(tmp_path)
    found = facts["search"]
    assert found["best_so_far"] == [3.0, 3.0, 2.5, 2.5, 2.5] and found["best"] == 2
    assert found["importance"] is None and facts["effects"] == {}
    assert [name for name, _ in trial_table(found).rows] == ["2", "0", "3", "1", "4"]
    assert [plan.name for plan in search_figures.plans(found)] == ["search_history", "search_parallel", "search_map"]
    assert all(drawing.images["dark"].startswith(b"\x89PNG") for drawing in draw(facts))
    assert [name for name, _ in arm_table(facts).rows] == [f"trial {number}" for number in range(5)]
    assert run_table(facts).rows[2][:1] == ("trial 2",)
    facts["arms"][3]["name"] = facts["arms"][2]["name"]
    assert run_table(facts).rows[3][0] == "trial 3", "though it drew the same values as another"


def test_names_stay_text_when_they_hold_markup(tmp_path: Path) -> None:
    hostile = "<img src=x>|**b** `c` ```"
    made = ledger(arm(hostile, 0, f"+x={hostile}"), arm("b", status="failed", reason=hostile), baseline=hostile)
    write_run(tmp_path, made.arms[0], 3.0)
    made.write(tmp_path)
    html = as_html(as_markdown(gather(tmp_path), []), [])
    assert "<img src=x>" not in html and html.count("<details>") == 1 and "&lt;img src=x&gt;" in html


def test_evaluation_is_left_out_when_it_is_not_finite(tmp_path: Path) -> None:
    made = ledger(arm("a"))
    folder = write_run(tmp_path, made.arms[0], 3.0)
    (folder / "evaluation.json").write_text(json.dumps({"student": figures(3.0) | {"kl": float("nan")}}))
    made.write(tmp_path)
    assert "kl" not in gather(tmp_path)["metrics"]


def test_command_goes_on_in_the_folder_when_one_was_typed(ablation: Ledger, tmp_path: Path) -> None:
    ablation.command += ["run.dir=here", "+env=[HF_TOKEN=secret]"]
    ablation.write(tmp_path)
    assert gather(tmp_path)["command"] == "distillkit sweep run.dir=here"


def test_search_takes_the_evaluation_when_no_validation_came(tmp_path: Path) -> None:
    made = ledger(arm("a", values={"loss.alpha": 1.0}), arm("b", values={"loss.alpha": 2.0}), method="tpe")
    write_run(tmp_path, made.arms[0], 3.0)
    write_run(tmp_path, made.arms[1])
    made.write(tmp_path)
    assert [trial["value"] for trial in gather(tmp_path)["search"]["trials"]] == [3.0, None]


def test_effect_is_drawn_without_a_warning_when_its_values_are_many_or_long(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    values = [f"a_folder/with_a_long_name/{number}.txt" for number in range(12)]
    made = ledger(*(arm(value, 0, f"data.path={value}") for value in values), seeds=[0])
    for number, one in enumerate(made.arms):
        write_run(tmp_path, one, 3.0 + number, changes={"data.path": values[number]})
    made.write(tmp_path)
    assert "effects" in {drawing.section for drawing in draw(gather(tmp_path))}
    assert not [told for told in recwarn if "constrained_layout" in str(told.message)]
