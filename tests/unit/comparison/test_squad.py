"""SQuAD's nested files and its own measures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from torchmetrics.functional.text import squad as torchmetrics_squad

from distillkit.comparison.tasks import squad
from distillkit.comparison.tasks.span import Span
from distillkit.errors import DataError
from tests.unit.comparison.span_rows import CONTEXT, hub_rows, nested
from tests.unit.comparison.token_parts import Rows


def test_read_squad_gives_the_hubs_rows_when_the_file_is_nested(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(nested(hub_rows())), encoding="utf-8-sig")
    read = Span.readers[".json"](path)
    from_file = Span(source=Rows(read, read)).parts["train"]
    from_hub = Span(source=Rows(hub_rows(), hub_rows())).parts["train"]
    assert len(from_file) == 20 and from_file.to_list() == from_hub.to_list()


def test_read_squad_gives_no_answers_when_a_question_is_impossible(tmp_path: Path) -> None:
    question = {
        "id": "q", "question": "?", "answers": [], "plausible_answers": [{"text": "w1", "answer_start": 3}],
        "is_impossible": True,
    }  # fmt: skip
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [question]}]}]}))
    assert squad.read_squad(path)["answers"][0] == {"text": [], "answer_start": []}


@pytest.mark.parametrize("content", ["{", '{"data": 3}', '{"data": [{"paragraphs": [{"context": "x"}]}]}'])
def test_read_squad_names_the_file_when_it_is_of_another_form(content: str, tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"dev\.json: not in the official SQuAD format"):
        squad.read_squad(path)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("An apple, a pear and the plum.", "apple pear and plum"),
        ("Theatre", "theatre"),
        ("\tU.S.A. \n", "usa"),
        ("1,000 € \u2013 2", "1000 € \u2013 2"),
        ("the", ""),
    ],
)
def test_normalise_answer_follows_squad_when_text_varies(text: str, normal: str) -> None:
    assert squad.normalise_answer(text) == normal


def test_f1_and_exact_match_are_those_by_hand_when_answers_overlap_in_part() -> None:
    gold = ["Saint Bernadette Soubirous", "Bernadette"]
    assert squad.f1("the Saint Bernadette", gold) == pytest.approx(2 * 1.0 * (2 / 3) / (1.0 + 2 / 3))
    assert squad.f1("in Bernadette", gold[1:]) == pytest.approx(2 / 3)
    assert squad.f1("a a b b", ["b b b"]) == pytest.approx(0.8)  # articles go: "b b" of 3
    assert (squad.exact_match("bernadette!", gold), squad.exact_match("Saint", gold)) == (1.0, 0.0)
    assert (squad.f1("", []), squad.f1("x", []), squad.exact_match("", ["x"])) == (1.0, 0.0, 0.0)


def test_measures_equal_torchmetrics_when_texts_are_random() -> None:
    rng = np.random.default_rng(0)
    words = ["the", "Tower", "tower,", "a", "b-c", "New", "york", "1889."]
    for _ in range(60):
        answer, *gold = (" ".join(rng.choice(words, size=rng.integers(1, 5))) + " x" for _ in range(4))
        theirs = torchmetrics_squad(
            {"prediction_text": answer, "id": "1"}, {"answers": {"text": gold, "answer_start": [0] * 3}, "id": "1"}
        )
        assert squad.f1(answer, gold) == pytest.approx(theirs["f1"].item() / 100, abs=1e-6)
        assert squad.exact_match(answer, gold) == theirs["exact_match"].item() / 100


def brute_force(scores: list[float], empty: list[float], odds: list[float]) -> float:
    """The best mean over every threshold that decides differently."""
    thresholds = [min(odds) - 1, *odds]
    return max(
        float(np.mean([e if o > t else s for s, e, o in zip(scores, empty, odds, strict=True)])) for t in thresholds
    )


@pytest.mark.parametrize("seed", range(8))
def test_best_threshold_is_that_of_a_brute_force_search_when_odds_tie(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, empty = rng.random(30).round(1), rng.integers(0, 2, 30).astype(float)
    odds = rng.integers(-4, 4, 30).astype(float)
    best, threshold = squad.best_threshold(scores, empty, odds)
    assert best == pytest.approx(brute_force(list(scores), list(empty), list(odds)))
    assert np.where(odds > threshold, empty, scores).mean() == pytest.approx(best)
