"""The paragraph on top of a comparison's page: it says what the numbers say, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from distillkit.comparison.ranking import Score, alike, average, front
from distillkit.comparison.words import listed, summary
from tests.unit.comparison.example import MODELS, SCORES, results


def said(facts: dict[str, Any]) -> str:
    return " ".join(summary(facts))


def moved(model: str, points: float) -> dict[str, dict[str, float]]:
    """SCORES with every score of a model changed by so many points."""
    return SCORES | {model: {task: value + points / 100 for task, value in SCORES[model].items()}}


def only(*names: str) -> dict[str, Any]:
    """`results` of some models."""
    rows = {name: MODELS[name] for name in names}
    return results({name: SCORES[name] for name in names}, models=rows, reference="bert" if "bert" in names else None)


def test_summary_names_the_best_the_smallest_and_the_fastest_when_all_ran() -> None:
    text = said(results())
    for part in (
        "The teacher bert scores 79.5 ± 0.3 on average over 4 tasks.",
        "Of the students, distilbert does best: 76.6 ± 0.3. Against bert it reaches 96.4% of the score, has 61% of the"
        " parameters (67.0 M) and runs at 2.0x the speed.",
        "Where size counts most: albert with 11.2 M parameters, scoring 71.2 ± 0.3.",
        "Where speed counts most: distilbert and control with 42.6 and 42.9 ms a text, scoring 76.6 ± 0.3 and 73.2",
        "Pareto front of size and mean score: albert, distilbert and bert.",
        "Pareto front of latency and mean score: distilbert and bert.",
        "Distillation brought 3.4 points: distilbert 76.6 ± 0.3",
    ):
        assert part in text, part
    assert "within" not in text and "seed" not in text


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (0.3, "Whether distillation brought anything the seeds do not tell"),
        (-0.3, "Whether distillation brought anything the seeds do not tell"),
        (5.0, "Distillation brought 5.0 points"),
        (-5.0, "Distillation brought nothing here, the control is 5.0 points ahead"),
    ],
)
def test_summary_claims_no_more_than_the_seeds_tell_when_control_and_student_are_compared(
    points: float, says: str
) -> None:
    even = SCORES | {"control": SCORES["distilbert"]}
    even["distilbert"] = {task: value + points / 100 for task, value in SCORES["distilbert"].items()}
    text = said(results(even))
    assert says in text
    assert ("Distillation brought" in text) is (abs(points) > 1)


def budgets(facts: dict[str, Any], **control: Any) -> dict[str, Any]:
    """The facts with another budget of the control."""
    facts["models"]["control"]["training"] |= control
    return facts


@pytest.mark.parametrize(
    ("control", "says"),
    [
        ({"steps": 1}, "distilbert was trained for 2,000 steps against 1 step."),
        ({"tokens": 900}, "distilbert was trained on 8,192,000 tokens against 900 tokens."),
        ({"steps": 10, "corpus": "imdb"}, "trained for 2,000 steps against 10 steps and on wikitext against imdb."),
        ({"steps": 10, "corpus": None}, "distilbert was trained for 2,000 steps against 10 steps."),
    ],
)
def test_summary_names_the_budgets_when_student_and_control_had_others(control: dict[str, Any], says: str) -> None:
    text = said(budgets(results(), **control))
    assert f"trained without a teacher, 73.2 ± 0.3, but {says.partition('trained')[0]}" in text and says in text
    assert "istillation brought" not in text


@pytest.mark.parametrize("key", ["steps", "tokens", "corpus"])
def test_summary_claims_nothing_for_distillation_when_a_budget_is_not_known(key: str) -> None:
    facts = results()
    del facts["models"]["distilbert"]["training"][key]
    text = said(facts)
    assert "distilbert 76.6 ± 0.3, control, the same shape trained without a teacher, 73.2 ± 0.3." in text
    assert "istillation brought" not in text and "against" not in text.partition("Side by side")[2]
    facts["models"]["distilbert"]["training"] = None
    assert "istillation brought" not in said(facts)
    even = results(SCORES | {"control": SCORES["distilbert"]})
    assert "The difference is within the seeds' spread." in said(budgets(even, **{key: None}))


def test_summary_tells_no_share_when_a_score_is_negative() -> None:
    text = said(results({"bert": {"cola": 0.1}, "albert": {"cola": -0.02}}, seeds=[0]))
    assert "The student albert scores -2.0. Against bert it has 10% of the parameters" in text


def test_summary_says_nothing_of_distillation_when_no_student_has_the_controls_shape() -> None:
    text = said(only("bert", "albert", "control"))
    assert "istillation brought" not in text and "same shape" not in text


def test_summary_says_that_students_are_alike_when_their_difference_is_within_the_spread() -> None:
    scores = SCORES | {"albert": {task: value - 0.002 for task, value in SCORES["distilbert"].items()}}
    assert "Its lead over albert is within the seeds' spread." in said(results(scores))
    assert "lead" not in said(results())


def test_summary_does_not_tell_student_from_teacher_when_their_difference_is_within_the_spread() -> None:
    scores = SCORES | {"distilbert": {task: value - 0.002 for task, value in SCORES["bert"].items()}}
    assert "The difference between distilbert and bert is within the seeds' spread." in said(results(scores))


def test_summary_claims_no_lead_when_there_is_one_seed() -> None:
    text = said(results(seeds=[0]))
    assert "Each model was fine-tuned with one seed, so the spread is not known" in text
    assert "3.4 points above control" in text and "one seed does not tell whether that is distillation" in text
    assert "Distillation brought" not in text and "within" not in text and "±" not in text


def test_summary_says_only_what_ran_when_there_is_one_model_and_one_task() -> None:
    facts = results({"albert": {"sst2": 0.871}}, models={"albert": MODELS["albert"]}, reference=None)
    assert summary(facts) == ["The student albert scores 87.1 ± 0.3 on sst2."]


def test_summary_measures_against_nothing_when_there_is_no_reference() -> None:
    text = said(only("distilbert", "albert"))
    assert text.startswith("Of the students, distilbert does best: 76.6 ± 0.3 on average over 4 tasks.")
    assert "reaches" not in text and "teacher" not in text


def test_summary_tells_what_the_control_keeps_when_no_student_ran() -> None:
    text = said(only("bert", "control"))
    assert "The control scores 73.2 ± 0.3. Against bert it reaches 92.1% of the score" in text


def test_summary_names_what_is_missing_when_a_unit_failed() -> None:
    scores = SCORES | {"albert": {"sst2": 0.871}}
    text = said(results(scores))
    for part in (
        "The teacher bert scores 92.4 ± 0.3 on sst2, the one task that all models have.",
        "Of the students, distilbert does best: 90.7 ± 0.3. Against bert it reaches 98.2% of the score",
        "Where size counts most: albert with 11.2 M parameters, scoring 87.1 ± 0.3.",
        "albert has no score on wnut17, demo_imdb and squad.",
    ):
        assert part in text, part


def test_summary_averages_over_the_tasks_that_all_have_when_one_is_missing_or_a_model_has_none() -> None:
    scores = {name: dict(row) for name, row in SCORES.items()} | {"control": {}}
    del scores["albert"]["squad"]
    text = said(results(scores))
    assert "bert scores 76.5 ± 0.3 on average over the 3 tasks that all models have." in text
    assert "albert has no score on squad. control has no score on any task." in text


def test_summary_claims_nothing_when_every_unit_failed() -> None:
    facts = results({"bert": {"sst2": 0.9}, "albert": {"squad": 0.5}}, models=MODELS)
    assert said(facts) == "No task has a score of every model, so there is no average to compare."


def test_summary_calls_no_model_faster_when_the_measurement_varied_more() -> None:
    facts = results()
    for model in facts["models"].values():
        model["latency_spread"] = 1.0
    assert "No model is faster than another beyond the spread of the measurement." in said(facts)


def test_front_holds_what_no_other_point_beats_when_points_are_equal_or_dominated() -> None:
    points = {"big": (3.0, 0.9), "twin": (3.0, 0.9), "worse": (3.0, 0.8), "small": (1.0, 0.5), "beaten": (2.0, 0.5)}
    assert front(points) == ["small", "big", "twin"]
    assert front({}) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Score(0.5, 0.03), Score(0.549, 0.04), True),
        (Score(0.5, 0.03), Score(0.551, 0.04), False),
        (Score(0.5, None), Score(0.5, 0.1), False),
    ],
)
def test_scores_are_alike_when_their_difference_is_its_own_deviation(one: Score, other: Score, same: bool) -> None:
    assert alike(one, other) is alike(other, one) is same


def test_average_has_the_deviation_of_the_seeds_means_when_tasks_vary_together_or_apart() -> None:
    facts = results({"bert": {"a": 0.5, "b": 0.7}}, models={"bert": MODELS["bert"]})
    together = average(facts["scores"]["bert"], facts["tasks"])
    assert together is not None and together == pytest.approx((0.6, 0.003))
    seeds = facts["scores"]["bert"]["b"]["seeds"]
    facts["scores"]["bert"]["b"]["seeds"] = dict(zip(seeds, reversed(seeds.values()), strict=True))
    apart = average(facts["scores"]["bert"], facts["tasks"])
    assert apart is not None and apart.sd == pytest.approx(0.0)
    del facts["scores"]["bert"]["b"]["seeds"]["0"]
    assert average(facts["scores"]["bert"], facts["tasks"]) is not None
    assert average(facts["scores"]["bert"], []) is None and average(facts["scores"]["bert"], ["b", "c"]) is None


@pytest.mark.parametrize(("names", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")])
def test_names_are_listed_as_in_a_sentence_when_there_are_several(names: list[str], text: str) -> None:
    assert listed(names) == text
