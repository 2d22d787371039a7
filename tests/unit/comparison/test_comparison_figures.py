"""The figures of a comparison: what they show, and what they leave out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillkit.comparison import figures
from distillkit.report.drawing import THEMES, Drawing, Plan
from tests.unit.comparison.example import MODELS, SCORES, results


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Any:
    """planned(facts): the figures' plans by name, undrawn: drawing takes seconds."""

    def plans(facts: dict[str, Any]) -> dict[str, Plan]:
        found: list[Plan] = []
        monkeypatch.setattr(figures, "draw_all", found.extend)
        figures.draw(facts)
        return {plan.name: plan for plan in found}

    return plans


def painted(plan: Plan) -> Axes:
    axes = Figure().add_subplot()
    plan.paint(axes, THEMES["light"])
    return axes


def test_figures_are_those_there_is_data_for_when_drawn(planned: Any) -> None:
    assert list(planned(results())) == ["size", "latency", "task_1", "task_2", "task_3", "task_4"]
    facts = results({"bert": {"sst2": 0.9}, "albert": {"squad": 0.8}})
    assert list(planned(facts)) == ["task_1", "task_2"]
    unmeasured = results()
    for model in unmeasured["models"].values():
        model["latency_ms"] = None
    assert "latency" not in planned(unmeasured) and "size" in planned(unmeasured)


def test_costs_are_drawn_over_the_common_tasks_when_a_model_lacks_one(planned: Any) -> None:
    axes = painted(planned(results({"bert": SCORES["bert"], "albert": {"sst2": 0.8, "squad": 0.7}}))["size"])
    points = [line.get_ydata()[0] for line in axes.lines if line.get_marker() in ("*", "s")]
    assert points == pytest.approx([90.3, 75.0])


@pytest.mark.parametrize("scores", [(-0.05, 0.02), (-0.4, -0.3), (0.001, 0.3), (0.5, 0.6)])
def test_marks_and_names_lie_within_the_axes_when_averages_are_negative(
    scores: tuple[float, float], planned: Any
) -> None:
    facts = results({name: {"cola": score} for name, score in zip(("albert", "bert"), scores, strict=True)})
    axes = painted(planned(facts)["size"])
    bottom, top = axes.get_ylim()
    assert bottom < 100 * (scores[0] - 0.003) and bottom == figures.floor(facts)
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights["albert"] == pytest.approx(100 * scores[0]) and max(heights.values()) < top


def test_scores_begin_at_zero_when_the_lowest_is_near_it_and_none_is_negative() -> None:
    assert figures.floor(results({"bert": {"cola": 0.5}, "albert": {"cola": 0.05}})) == 0.0
    assert figures.floor(results({"bert": {"cola": 0.5}, "albert": {"cola": 0.002}})) < 0.0, "its spread is below"
    assert figures.floor(results({}, tasks=["cola"])) == 0.0


def test_front_is_a_step_line_through_the_unbeaten_models_when_painted(planned: Any) -> None:
    axes = painted(planned(results())["latency"])
    (line,) = (line for line in axes.lines if line.get_linestyle() == "--")
    assert list(line.get_xdata())[:2] == [42.6, 84.1] and line.get_drawstyle() == "steps-post"
    assert list(line.get_ydata()) == pytest.approx([76.6, 79.45, 79.45])
    assert {text.get_text() for text in axes.texts} == set(MODELS)


def test_names_stand_apart_when_points_fall_together(planned: Any) -> None:
    axes = painted(planned(results(SCORES | {"control": SCORES["distilbert"]}))["latency"])
    heights = sorted(text.xy[1] for text in axes.texts)
    room = axes.get_ylim()[1] - axes.get_ylim()[0]
    assert min(b - a for a, b in itertools.pairwise(heights)) > 0.06 * room


def test_spread_is_drawn_when_there_are_seeds_and_not_when_there_is_one(planned: Any) -> None:
    assert len(painted(planned(results())["size"]).containers) == 4
    assert not painted(planned(results(seeds=[0]))["size"]).containers


def test_task_shows_every_model_and_seed_when_painted(planned: Any) -> None:
    axes = painted(planned(results(SCORES | {"albert": {"sst2": 0.8}}))["task_2"])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bert", "distilbert", "control"]
    seeds = [line for line in axes.lines if line.get_marker() == "|" and line.get_markersize() == 9]
    assert [len(line.get_xdata()) for line in seeds] == [3, 3, 3]
    assert list(seeds[0].get_xdata()) == pytest.approx([45.8, 46.1, 46.4])


def test_drawing_has_both_themes_when_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    (drawing,) = figures.draw(results({"bert": {"sst2": 0.9}}, models={"bert": MODELS["bert"]}, seeds=[0]))
    assert isinstance(drawing, Drawing) and drawing.title == "sst2" and drawing.section == "tasks"
    assert all(image.startswith(b"\x89PNG") for image in drawing.images.values())
    assert set(drawing.images) == set(THEMES)
