"""Differences, effects and orders against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from distillkit.sweeps.differences import paired, spread, told
from distillkit.sweeps.effects import interaction, main_effect, varied
from distillkit.sweeps.paper import beside_paper

Grid = dict[str, dict[str, Any]]


def test_spread_divides_by_one_less_when_there_are_several_seeds() -> None:
    assert spread({"0": 1.0, "1": 2.0, "2": 4.5})["mean"] == 2.5
    assert spread({"0": 1.0, "1": 2.0, "2": 4.5})["sd"] == pytest.approx(3.25**0.5)  # (2.25 + 0.25 + 4) / 2
    assert spread({"0": 1.0})["sd"] is None


def test_interval_is_students_when_seeds_are_paired() -> None:
    found = paired({"0": 2.0, "1": 3.0, "2": 5.0, "9": 7.0}, {"2": 3.0, "1": 2.5, "0": 1.0, "8": 0.0})
    # differences 1, 0.5, 2: mean 7/6, sd 0.763763; t of 2 degrees of freedom 4.302653; half 1.897287
    assert found["seeds"] == 3 and found["mean"] == pytest.approx(7 / 6)
    assert found["low"] == pytest.approx(-0.730620, abs=1e-5)
    assert found["high"] == pytest.approx(3.063953, abs=1e-5)
    assert not told(found)


def test_interval_is_unknown_when_one_seed_is_shared() -> None:
    found = paired({"0": 2.0, "1": 3.0}, {"0": 1.5})
    assert found == {"mean": 0.5, "low": None, "high": None, "seeds": 1} and not told(found)
    assert paired({"0": 2.0}, {"1": 1.5})["mean"] is None


def test_difference_is_told_when_its_interval_leaves_out_zero() -> None:
    one = {"0": 1.0, "1": 2.0, "2": 3.0}
    assert told(paired({s: v - 0.5 + 0.001 * v for s, v in one.items()}, one))
    assert told(paired(one, {s: v - 0.5 + 0.001 * v for s, v in one.items()}))


def _grid() -> tuple[Grid, dict[str, dict[str, float]]]:
    """Alpha 0, 5 and beta 0, 2, two seeds; the loss is 4 - alpha / 5 - beta / 2 + alpha * beta / 20, and the seed."""
    values = {f"{a},{b}": {"alpha": a, "beta": b} for a in (5, 0) for b in (0, 2)}
    loss = {n: 4 - v["alpha"] / 5 - v["beta"] / 2 + v["alpha"] * v["beta"] / 20 for n, v in values.items()}
    return values, {name: {"0": value, "1": value + 0.25} for name, value in loss.items()}


def test_main_effect_is_the_mean_over_the_other_key_when_arms_form_a_grid() -> None:
    values, found = _grid()
    low, high = main_effect("alpha", values, found)
    # alpha 0: (4 + 3) / 2, alpha 5: (3 + 2.5) / 2; the second seed 0.25 more
    assert (low["value"], low["arms"], low["seeds"]) == (0, 2, {"0": 3.5, "1": 3.75})
    assert (high["value"], high["mean"]) == (5, 2.875) and high["difference"]["mean"] == -0.75


def test_main_effect_compares_arms_that_differ_in_it_alone_when_others_are_listed() -> None:
    values = {
        "full": {"alpha": 5, "beta": 2}, "no_ce": {"alpha": 0, "beta": 2}, "no_mlm": {"alpha": 5, "beta": 0},
    }  # fmt: skip
    found = {"full": {"0": 1.0}, "no_ce": {"0": 2.0}, "no_mlm": {"0": 9.0}}
    entries = main_effect("alpha", values, found)
    assert [(entry["value"], entry["mean"]) for entry in entries] == [(0, 2.0), (5, 1.0)]
    assert interaction(("alpha", "beta"), values, found) is None


def test_main_effect_leaves_a_seed_out_when_an_arm_lacks_it() -> None:
    values, found = _grid()
    del found["5,2"]["1"]
    assert [list(entry["seeds"]) for entry in main_effect("alpha", values, found)] == [["0"], ["0"]]


def test_interaction_is_the_difference_of_differences_when_two_by_two() -> None:
    values, found = _grid()
    pair = interaction(("alpha", "beta"), values, found)
    assert pair is not None and (pair["rows"], pair["columns"]) == ([0, 5], [0, 2])
    assert pair["means"] == [[4.125, 3.125], [3.125, 2.625]]
    assert pair["departure"]["mean"] == pytest.approx(0.5)  # 5 * 2 / 20


def test_interaction_leaves_a_cell_empty_when_its_arm_failed() -> None:
    values = {f"{a},{b}": {"alpha": a, "beta": b} for a in (0, 1, 2) for b in (0, 1)}
    found = {name: {"0": 1.0} for name in values if name != "2,1"}
    pair = interaction(("alpha", "beta"), values, found)
    assert pair is not None and pair["means"] == [[1.0, 1.0], [1.0, 1.0], [1.0, None]] and pair["departure"] is None


def test_varied_lists_the_keys_with_two_values_when_asked() -> None:
    values = {"a": {"x": 5, "y": 1, "z": "late"}, "b": {"x": 0, "y": 1, "z": "early"}}
    assert varied(values) == {"x": [0, 5], "z": ["late", "early"]}


def _groups(**losses: list[float]) -> dict[str, Any]:
    return {
        name: {"figures": {"mlm_loss": spread({str(s): v for s, v in enumerate(own)})}} for name, own in losses.items()
    }


def test_order_is_the_papers_when_losses_rise_as_its_scores_fall() -> None:
    groups = _groups(full=[1.0, 1.1], no_mlm=[2.0, 2.1], no_cosine=[3.0, 3.1], no_ce=[4.0, 4.1], random_init=[5.0, 5.1])
    found = beside_paper(groups, {"mlm_loss": True})
    assert found is not None and found["figures"]["mlm_loss"]["tau"] == pytest.approx(1.0)
    assert {pair["verdict"] for pair in found["figures"]["mlm_loss"]["pairs"]} == {"agrees"}
    reverse = beside_paper(groups, {"mlm_loss": False})
    assert reverse is not None and reverse["figures"]["mlm_loss"]["tau"] == pytest.approx(-1.0)
    assert {pair["verdict"] for pair in reverse["figures"]["mlm_loss"]["pairs"]} == {"disagrees"}


def test_order_counts_pairs_when_two_arms_change_places() -> None:
    groups = _groups(full=[1.0], no_mlm=[4.0], no_cosine=[3.0], no_ce=[3.5], random_init=[5.0])
    found = beside_paper(groups, {"mlm_loss": True})
    # of ten pairs no_mlm stands wrong with no_cosine and no_ce: (8 - 2) / 10
    assert found is not None and found["figures"]["mlm_loss"]["tau"] == pytest.approx(0.6)
    assert {pair["verdict"] for pair in found["figures"]["mlm_loss"]["pairs"]} == {"open"}, "one seed tells nothing"
    assert beside_paper(_groups(full=[1.0]), {"mlm_loss": True}) is None
