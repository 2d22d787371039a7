"""A comparison in plain words: rules from its numbers, which claim nothing that the seeds do not tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from distillkit.comparison.ranking import Score, alike, averages, common_tasks, costs, front
from distillkit.comparison.tables import parameters_text, times_text
from distillkit.evaluation.summary import counted, score_text

_NAMED = 5
"""Most models of a front that are named."""
_SHAPE = ("class", "layers", "hidden_size", "unique_parameters")
_BUDGET: dict[str, tuple[str, Callable[[Any], str]]] = {
    "steps": ("for", lambda value: counted(value, "step")),
    "tokens": ("on", lambda value: counted(value, "token")),
    "corpus": ("on", str),
}
"""What two trainings must share for their difference to be that of their losses: a preposition, how it is said."""


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
        name = _titled(facts, reference) if facts["models"][reference]["role"] == "teacher" else reference
        yield f"{name} scores {score_text(*found[reference])} {averaged(facts)}."
    yield from _best(facts, found, reference)
    if len(found) > 1:
        yield from _cheapest(facts, found)
        yield from _fronts(facts)
    yield from _controls(facts, found)


def averaged(facts: Mapping[str, Any]) -> str:
    """What the scores of words and figures are of: "on sst2", "on average over the 3 tasks that all models have".

    Args:
        facts: results.json, with a task on which all models have a score.
    """
    tasks, partly = common_tasks(facts), len(common_tasks(facts)) < len(facts["tasks"])
    if len(tasks) == 1:
        return f"on {tasks[0]}" + (", the one task that all models have" if partly else "")
    return f"on average over {f'the {len(tasks)} tasks that all models have' if partly else f'{len(tasks)} tasks'}"


def _titled(facts: Mapping[str, Any], name: str) -> str:
    """A model with its role, said once where it is the name: "The student small", "The student"."""
    role = facts["models"][name]["role"]
    return f"The {role}" if role == name else f"The {role} {name}"


# --- the best ----------------------------------------------------------------------------------------------------


def _best(facts: Mapping[str, Any], found: Mapping[str, Score], reference: str | None) -> Iterator[str]:
    """The best student, or without one the best of the others; and those that the seeds do not tell from it."""
    others = [name for name in found if name != reference]
    students = [name for name in others if facts["models"][name]["role"] == "student"]
    chosen = students or others
    if not chosen:
        return
    best = max(chosen, key=lambda name: found[name].mean)
    score = f"{score_text(*found[best])}{'' if reference else f' {averaged(facts)}'}"
    if len(chosen) > 1:
        group = "students" if students else "others" if reference else "models"
        yield f"Of the {group}, {best} does best: {score}."
        equals = [name for name in chosen if name != best and alike(found[name], found[best])]
        if equals:
            yield f"Its lead over {listed(equals)} is within the seeds' spread."
    else:
        yield f"{_titled(facts, best)} scores {score}."
    if reference:
        yield from _against(facts, best, reference, found)
    if reference and alike(found[best], found[reference]):
        yield f"The difference between {best} and {reference} is within the seeds' spread."


def _against(facts: Mapping[str, Any], name: str, reference: str, found: Mapping[str, Score]) -> Iterator[str]:
    """What a model keeps of the reference's score, at what size and speed."""
    model, parts = facts["models"][name], []
    if found[name].mean > 0 and found[reference].mean > 0:
        parts.append(f"reaches {found[name].mean / found[reference].mean:.1%} of the score")
    if model["compression"]:
        size = parameters_text(model["unique_parameters"])
        parts.append(f"has {1 / model['compression']:.0%} of the parameters ({size})")
    if model["speed_up"]:
        parts.append(f"runs at {times_text(model['speed_up'])} the speed")
    if parts:
        yield f"Against {reference} it {listed(parts)}."


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
        each = listed([f"{times[name]:.1f}" for name in names])
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
                yield _beside(facts, student, control, found)


def _beside(facts: Mapping[str, Any], student: str, control: str, found: Mapping[str, Score]) -> str:
    """A student beside its control; it is distillation that tells them apart only where their budgets are equal."""
    one, other = found[student], found[control]
    against = f"{student} {score_text(*one)}, {control}, the same shape trained without a teacher, {score_text(*other)}"
    budgets = [(facts["models"][name]["training"] or {}) for name in (student, control)]
    pairs = {key: tuple(budget.get(key) for budget in budgets) for key in _BUDGET}
    if all(None not in pair and pair[0] == pair[1] for pair in pairs.values()):
        return _brought(student, control, one, other, against)
    unlike = [
        f"{by} {say(pair[0])} against {say(pair[1])}"
        for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]
        for by, say in [_BUDGET[key]]
    ]  # fmt: skip
    but = f", but {student} was trained {listed(unlike)}" if unlike else ""
    within = " The difference is within the seeds' spread." if alike(one, other) else ""
    return f"Side by side: {against}{but}.{within}"


def _brought(student: str, control: str, one: Score, other: Score, against: str) -> str:
    """What distillation brought, where it is all that differs."""
    points = abs(100 * (one.mean - other.mean))
    if alike(one, other):
        return f"Whether distillation brought anything the seeds do not tell: {against}."
    if one.sd is None or other.sd is None:
        side = "above" if one.mean > other.mean else "below" if one.mean < other.mean else "from"
        shape = f"{control}, the same shape trained without a teacher"
        return f"{student} is {points:.1f} points {side} {shape}; one seed does not tell whether that is distillation."
    if one.mean > other.mean:
        return f"Distillation brought {points:.1f} points: {against}."
    return f"Distillation brought nothing here, the control is {points:.1f} points ahead: {against}."


# --- what is not known -------------------------------------------------------------------------------------------


def _missing(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    if not found:
        yield "No task has a score of every model, so there is no average to compare."
        return
    for name in facts["models"]:
        lacking = [task for task in facts["tasks"] if task not in facts["scores"].get(name, {})]
        if lacking:
            yield f"{name} has no score on {'any task' if name not in found else listed(lacking)}."


def _on_seeds(facts: Mapping[str, Any], found: Mapping[str, Score]) -> Iterator[str]:
    if found and len(found) > 1 and any(score.sd is None for score in found.values()):
        one = len(facts["recipe"]["seeds"]) == 1
        why = "Each model was fine-tuned with one seed" if one else "Not every model has two seeds of every task"
        yield f"{why}, so the spread is not known and a small difference may be chance."


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
