"""A comparison in plain words: rules from its numbers, which claim nothing that the seeds do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillkit.comparison.ranking import Score, alike, averages, costs, front
from distillkit.comparison.tables import parameters_text, times_text
from distillkit.evaluation.summary import score_text

_NAMED = 5
"""Most models of a front that are named."""
_SHAPE = ("class", "layers", "hidden_size", "unique_parameters")


def summary(facts: Mapping[str, Any]) -> list[str]:
    """Which model for what, in sentences.

    Args:
        facts: results.json.
    """
    found = averages(facts)
    sentences = list(_on_scores(facts, found)) if found else []
    return [*sentences, *_missing(facts, found), *_on_seeds(facts, found)]


def _on_scores(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    reference = facts["reference"] if facts["reference"] in found else None
    if reference is not None:
        role = "The teacher " if facts["models"][reference]["role"] == "teacher" else ""
        yield f"{role}{reference} scores {score_text(*found[reference])}{_where(facts)}."
    yield from _best(facts, found, reference)
    if len(found) > 1:
        yield from _cheapest(facts, found)
        yield from _fronts(facts)
    yield from _controls(facts, found)


def _where(facts: Mapping[str, Any]) -> str:
    tasks = list(facts["tasks"])
    return f" on {tasks[0]}" if len(tasks) == 1 else f" on average over {len(tasks)} tasks"


# --- the best ----------------------------------------------------------------------------------------------------


def _best(facts: Mapping[str, Any], found: Mapping[str, Score], reference: str | None) -> Iterator[str]:
    """The best student, or without one the best of the others; and those that the seeds do not tell from it."""
    others = [name for name in found if name != reference]
    students = [name for name in others if facts["models"][name]["role"] == "student"]
    chosen = students or others
    if not chosen:
        return
    best = max(chosen, key=lambda name: found[name].mean)
    score = f"{score_text(*found[best])}{'' if reference else _where(facts)}"
    if len(chosen) > 1:
        group = "students" if students else "others" if reference else "models"
        yield f"Of the {group}, {best} does best: {score}{_kept(facts, best, reference)}."
        equals = [name for name in chosen if name != best and alike(found[name], found[best])]
        if equals:
            yield f"Its lead over {listed(equals)} is within the seeds' spread."
    else:
        yield f"The {'student' if students else 'model'} {best} scores {score}{_kept(facts, best, reference)}."
    if reference and alike(found[best], found[reference]):
        yield f"The difference between {best} and {reference} is within the seeds' spread."


def _kept(facts: Mapping[str, Any], name: str, reference: str | None) -> str:
    """What a model keeps of the reference's score, at what size and speed."""
    if reference is None:
        return ""
    model = facts["models"][name]
    parts = []
    if model["retained"] is not None:
        parts.append(f"{model['retained']:.1%} of what {reference} reaches")
    if model["unique_parameters"]:
        share = f" ({1 / model['compression']:.0%} of its)" if model["compression"] else ""
        parts.append(f"with {parameters_text(model['unique_parameters'])} parameters{share}")
    if model["speed_up"]:
        parts.append(f"at {times_text(model['speed_up'])} its speed")
    return f", {', '.join(parts)}" if parts else ""


# --- size and speed ----------------------------------------------------------------------------------------------


def _cheapest(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    """The smallest and the fastest of the models with an average."""
    sizes = {name: cost for name, (cost, _) in costs(facts, "unique_parameters").items()}
    if sizes and min(sizes.values()) < max(sizes.values()):
        least = min(sizes.values())
        names = [name for name, size in sizes.items() if size == least]
        yield (
            f"Where size counts most: {listed(names)} with {parameters_text(int(least))} parameters,"
            f" scoring {_scored(names, found)}."
        )
    times = {name: cost for name, (cost, _) in costs(facts, "latency_ms").items()}
    if len(times) < 2:
        return
    fastest = min(times, key=times.__getitem__)
    names = [name for name in times if times[name] <= times[fastest] * (1 + _spread(facts, name, fastest))]
    if len(names) == len(times):
        yield "No model is faster than another beyond the spread of the measurement."
    else:
        each = " and ".join(f"{times[name]:.1f}" for name in names)
        yield f"Where speed counts most: {listed(names)} with {each} ms a text, scoring {_scored(names, found)}."


def _spread(facts: Mapping[str, Any], *names: str) -> float:
    """By what share of itself a latency varied while it was measured; the larger of the models'."""
    return max(facts["models"][name]["latency_spread"] or 0.0 for name in names)


def _scored(names: Sequence[str], found: Mapping[str, Score]) -> str:
    return listed([score_text(*found[name]) for name in names])


def _fronts(facts: Mapping[str, Any]) -> Iterator[str]:
    """The Pareto fronts, of the mean scores; a front of many in numbers."""
    for cost, label in (("unique_parameters", "size"), ("latency_ms", "latency")):
        points = costs(facts, cost)
        names = front(points)
        if len(points) > 1:
            shown = listed(names) if len(names) <= _NAMED else f"{len(names)} of {len(points)} models"
            yield f"On the Pareto front of {label} and mean score: {shown}."


# --- the control -------------------------------------------------------------------------------------------------


def _controls(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    """What distillation brought: each control against the students of its shape."""
    models = facts["models"]
    for control in (name for name in found if models[name]["role"] == "control"):
        for student in (name for name in found if models[name]["role"] == "student"):
            if all(models[student][key] == models[control][key] for key in _SHAPE):
                yield _brought(student, control, found)


def _brought(student: str, control: str, found: Mapping[str, Score]) -> str:
    one, other = found[student], found[control]
    points = abs(100 * (one.mean - other.mean))
    shape = f"{control}, the same shape trained without a teacher"
    against = f"{student} {score_text(*one)}, {shape}, {score_text(*other)}"
    if alike(one, other):
        return f"Whether distillation brought anything the seeds do not tell: {against}."
    if one.sd is None or other.sd is None:
        side = "above" if one.mean > other.mean else "below" if one.mean < other.mean else "from"
        return f"{student} is {points:.1f} points {side} {shape}; one seed does not tell whether that is distillation."
    if one.mean > other.mean:
        return f"Distillation brought {points:.1f} points: {against}."
    return f"Distillation brought nothing here, the control is {points:.1f} points ahead: {against}."


# --- what is not known -------------------------------------------------------------------------------------------


def _missing(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    if not found:
        yield "No model has a score on every task, so there is no average to compare."
        return
    for name in facts["models"]:
        lacking = [task for task in facts["tasks"] if task not in facts["scores"].get(name, {})]
        if lacking:
            yield f"{name} has no average, because it has no score on {listed(lacking)}."


def _on_seeds(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    if found and len(found) > 1 and any(score.sd is None for score in found.values()):
        one = len(facts["recipe"]["seeds"]) == 1
        why = "Each model was fine-tuned with one seed" if one else "Not every model has two seeds of every task"
        yield f"{why}, so the spread is not known and a small difference may be chance."


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
