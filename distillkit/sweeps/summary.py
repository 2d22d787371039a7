"""A sweep in plain sentences, which claim nothing that the seeds do not tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from distillkit.comparison.words import listed
from distillkit.evaluation.summary import counted
from distillkit.progress import duration
from distillkit.report.markup import cell
from distillkit.sweeps.differences import paired, told
from distillkit.sweeps.tables import figure_name, figure_text


def summary(facts: Mapping[str, Any]) -> list[str]:
    """What the sweep found so far."""
    return [*_progress(facts), *_best(facts), *_against_baseline(facts)]


def _progress(facts: Mapping[str, Any]) -> Iterator[str]:
    counts = facts["counts"]
    total = sum(counts.values())
    others = [f"{number} {status}" for status, number in counts.items() if status != "done"]
    yield f"{counts.get('done', 0)} of {counted(total, 'run')} done{f', {listed(others)}' if others else ''}."
    if not facts["metrics"]:
        yield "No run is done yet, so there are no held-out figures beyond the curves."
    elif not facts["comparable"]:
        yield "The runs were measured on different held-out texts or masks: their figures do not compare."


def _best(facts: Mapping[str, Any]) -> Iterator[str]:
    """The best arm, and those that the seeds do not tell from it."""
    for figure, names in facts["best"].items():
        if len(names) != 1:
            continue
        (best,), groups = names, facts["groups"]
        entry = groups[best]["figures"][figure]
        yield f"{'Lowest' if facts['metrics'][figure] else 'Highest'} {figure_name(figure)}: {best}," \
              f" {figure_text(figure, entry['mean'], entry['sd'])}."  # fmt: skip
        others = {
            name: paired(group["figures"][figure]["seeds"], entry["seeds"])
            for name, group in groups.items() if name != best and figure in group["figures"]
        }  # fmt: skip
        open_ones = [name for name, difference in others.items() if not told(difference)]
        if open_ones and len(entry["seeds"]) > 1:
            yield f"The seeds do not tell {_some(open_ones)} from it."
        break


def _against_baseline(facts: Mapping[str, Any]) -> Iterator[str]:
    """Which arms differ from the baseline in the first figure."""
    figure = next(iter(facts["metrics"]), None)
    entries = {n: g["figures"][figure]["difference"] for n, g in facts["groups"].items() if figure in g["figures"]}
    known = {name: difference for name, difference in entries.items() if difference and difference["mean"] is not None}
    if figure is None or not known:
        return
    if all(difference["seeds"] < 2 for difference in known.values()):
        yield "With one seed an arm, no difference can be told from chance."
        return
    sure = {name: difference["mean"] for name, difference in known.items() if told(difference)}
    worse = [name for name, mean in sure.items() if (mean > 0) == facts["metrics"][figure]]
    better = [name for name in sure if name not in worse]
    parts = [f"{word} in {_some(names)}" for word, names in (("worse", worse), ("better", better)) if names]
    unsure = [name for name in known if name not in sure]
    said = f"is {listed(parts)}" if parts else "differs in no arm beyond what the seeds tell"
    rest = f"; open in {_some(unsure)}" if parts and unsure else ""
    yield f"Against {facts['baseline']}, {figure_name(figure)} {said}{rest}."


def _some(names: list[str], most: int = 5) -> str:
    return listed(names) if len(names) <= most else f"{len(names)} arms"


def beside_paper(facts: Mapping[str, Any]) -> list[str]:
    """A line a figure: how its order of the arms agrees with the paper's."""
    lines = []
    for figure, found in (facts["paper"] or {"figures": {}})["figures"].items():
        tau = cell(found["tau"], "{:.2f}".format)
        verdicts = Counter(pair["verdict"] for pair in found["pairs"])
        lines.append(
            f"{figure_name(figure)}: Kendall's tau {tau} between the orders of {found['arms']} arms; of"
            f" {counted(len(found['pairs']), 'pair')} {verdicts['agrees']} agree, {verdicts['disagrees']} disagree,"
            f" {verdicts['open']} the seeds leave open"
        )
    return lines


def savings(facts: Mapping[str, Any]) -> str:
    """What arms had of their teacher without computing it, in a sentence."""
    said = []
    for name, noun, where in (("teacher_rows", "row", "from its cache"), ("teacher_passes", "pass", "in one process")):
        if (found := facts[name]) is None:
            continue
        total = found["had"] + found["computed"]
        share = f" ({found['had'] / total:.0%})" if total else ""
        time = "" if found["seconds_saved"] is None else f", about {duration(found['seconds_saved'])} of computing"
        plural = f"{noun}es" if noun == "pass" else f"{noun}s"
        said.append(f"the teacher's states of {found['had']:,} of {total:,} {plural}{share}{time}, had {where} by"
                    f" {counted(found['arms'], 'run')}")  # fmt: skip
    nothing = "nothing but the prepared text: no run had a teacher cache (sweep.share_cache=true) or a shared pass"
    return "; ".join(said) or f"{nothing} (sweep.shared_pass=true)"


def time_text(facts: Mapping[str, Any]) -> str:
    """The time of all runs together, and from the first start to the last end."""
    within = f" within {duration(facts['elapsed'])}" if facts["elapsed"] is not None else ""
    return f"{duration(facts['seconds'])} of runs{within}"
