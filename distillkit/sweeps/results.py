"""What a sweep found so far, gathered from its arms' folders into the plain values of sweep_results.json."""

from __future__ import annotations

import itertools
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit import __version__
from distillkit.redaction import shown_commands, shown_words
from distillkit.report.facts import finite, machine
from distillkit.sweeps.arms import Arm, Ledger
from distillkit.sweeps.definition import arm_words
from distillkit.sweeps.differences import paired, spread
from distillkit.sweeps.effects import interaction, main_effect, varied
from distillkit.sweeps.learning import mean_curves
from distillkit.sweeps.paper import SWEEP, beside_paper
from distillkit.sweeps.readings import HELD_OUT, Reading, plain, read_arm, value_at
from distillkit.sweeps.trials import search_facts
from distillkit.sweeps.words import key_of

Facts = dict[str, Any]
Readings = Mapping[int, Reading]
MAIN = "mlm_loss"
"""Figure that effects are shown of: every arm has it, whatever its teacher."""


def gather(folder: Path) -> Facts:
    """The facts of a sweep, whatever its arms are doing.

    Args:
        folder: of the sweep.

    Returns:
        version, date, machine, name, method, vary, seeds, launcher, command, baseline, counts (arms by status), seconds
        (of all arms' processes), elapsed (from the first start to the last end), teacher_rows (of arms with a cache)
        and teacher_passes (of arms that shared a process): had, computed, arms, seconds_saved; comparable (whether all
        arms were measured on one text), arms, groups (by name), metrics (figure -> whether less is better), best
        (figure -> names), varied (key -> values), effects (key -> figure -> `main_effect`), interactions, curves
        (`mean_curves`), search (of random and TPE), paper (of loss_weights).

    Raises:
        FileNotFoundError: no sweep was begun there.
    """
    ledger = Ledger.read(folder)
    readings = {arm.number: read_arm(folder, arm) for arm in ledger.arms}
    texts = {reading.text for reading in readings.values() if reading.text is not None}
    search, comparable = ledger.sweep["method"] != "grid", len(texts) < 2
    groups = _groups(ledger, readings, comparable)
    figures = {name: name in ("mlm_loss", "kl") for name in _known(readings)}
    return finite({
        "version": __version__, "date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine(), "name": ledger.name,
        "method": ledger.sweep["method"], "vary": ledger.sweep["vary"], "seeds": ledger.sweep["seeds"],
        "launcher": ledger.launcher["_target_"].rpartition(".")[2],
        "command": shlex.join(shown_words(ledger.command, paths=True, folder=True)), "baseline": ledger.baseline,
        "counts": dict(Counter(arm.status for arm in ledger.arms)), **_times(ledger.arms),
        "teacher_rows": _had(reading.teacher_rows for reading in readings.values()),
        "teacher_passes": _had(reading.teacher_passes for reading in readings.values()), "comparable": comparable,
        "arms": [_arm(ledger, arm, readings[arm.number]) for arm in ledger.arms], "groups": groups,
        "metrics": figures, "best": {n: _best(groups, n, less) for n, less in figures.items()} if comparable else {},
        **_effects(_values(ledger, readings), groups if comparable and not search else {}, figures),
        "curves": mean_curves([(arm, readings[arm.number].curves) for arm in ledger.arms]),
        "search": search_facts(ledger, folder) if search else None,
        "paper": beside_paper(groups, figures) if ledger.name == SWEEP and comparable else None,
    })  # fmt: skip


# --- arms --------------------------------------------------------------------------------------------------------


def _arm(ledger: Ledger, arm: Arm, reading: Reading) -> Facts:
    """One run: how it is getting on, its figures, and the command that repeats it without the sweep."""
    where = ["--config-dir", ledger.config_dir] if ledger.config_dir else []
    words = reading.overrides if reading.begun else arm_words(ledger, arm)
    return {
        "number": arm.number, "name": arm.name, "seed": arm.seed, "status": arm.status, "reason": arm.reason,
        "attempts": arm.attempts, "seconds": arm.seconds, "folder": arm.folder, "step": reading.step,
        "steps": reading.steps, "figures": dict(reading.figures),
        "command": shown_commands([[*words, *where]], paths=True)[0],
    }  # fmt: skip


def _known(readings: Readings) -> list[str]:
    """The figures that some arm has: held-out ones, then tasks."""
    found = dict.fromkeys(name for reading in readings.values() for name in reading.figures)
    return [*(name for name in HELD_OUT if name in found), *(name for name in found if name not in HELD_OUT)]


def _times(arms: Sequence[Arm]) -> Facts:
    started = [arm.started for arm in arms if arm.started is not None]
    ended = [arm.ended for arm in arms if arm.ended is not None]
    elapsed = max(ended) - min(started) if started and ended else None
    return {"seconds": sum(arm.seconds for arm in arms), "elapsed": elapsed}


def _had(readings: Iterable[Mapping[str, Any] | None]) -> Facts | None:
    """What arms had of their teacher without computing it; seconds_saved: as if that took what it took the others."""
    told = [one for one in readings if one is not None]
    if not told:
        return None
    had, computed = (sum(one[key] for one in told) for key in ("had", "computed"))
    reading, computing = ([one[f"seconds_{key}"] for one in told] for key in ("reading", "computing"))
    saved = None
    if computed and None not in reading + computing:
        saved = max(0.0, had * sum(computing) / computed - sum(reading))
    return {"had": had, "computed": computed, "arms": len(told), "seconds_saved": saved}


# --- arms of one name --------------------------------------------------------------------------------------------


def _groups(ledger: Ledger, readings: Readings, comparable: bool) -> dict[str, Facts]:
    """Arm's name -> done, arms, reasons (of those that failed or stopped), sizes (of its first run that is done; its
    step_seconds is the median of all) and figures, with difference from baseline.

    A figure has `spread`'s values, and `paired`'s as difference: None for the baseline itself and without one.
    """
    names = dict.fromkeys(arm.name for arm in ledger.arms)
    seeds = {name: _by_seed(ledger, readings, name) for name in names}
    groups = {}
    for name in names:
        own = [arm for arm in ledger.arms if arm.name == name]
        base = seeds.get(ledger.baseline, {}) if comparable and ledger.baseline not in (None, name) else {}
        figures = {
            figure: spread(values) | {"difference": paired(values, base[figure]) if figure in base else None}
            for figure, values in seeds[name].items()
        }
        groups[name] = {
            "done": sum(arm.status == "done" for arm in own), "arms": len(own),
            "statuses": dict(Counter(arm.status for arm in own)),
            "reasons": list(dict.fromkeys(arm.reason for arm in own if arm.reason and arm.status != "done")),
            "sizes": _sizes([readings[arm.number].sizes for arm in own]), "figures": figures,
        }  # fmt: skip
    return groups


def _sizes(runs: Sequence[Mapping[str, float]]) -> Facts:
    known = [sizes for sizes in runs if sizes]
    seconds = [sizes["step_seconds"] for sizes in known if "step_seconds" in sizes]
    return dict(known[0] if known else {}) | ({"step_seconds": statistics.median(seconds)} if seconds else {})


def _by_seed(ledger: Ledger, readings: Readings, name: str) -> dict[str, dict[str, float]]:
    """Figure -> seed -> value, of the arms of a name."""
    found: dict[str, dict[str, float]] = {}
    for arm in ledger.arms:
        for figure, value in readings[arm.number].figures.items() if arm.name == name else ():
            found.setdefault(figure, {})[str(arm.seed)] = value
    return found


def _best(groups: Mapping[str, Facts], figure: str, less: bool) -> list[str]:
    """The names with the best mean; those with fewer seeds than others are not asked, one seed may be lucky."""
    entries = {name: group["figures"][figure] for name, group in groups.items() if figure in group["figures"]}
    most = max((len(entry["seeds"]) for entry in entries.values()), default=0)
    means = {name: entry["mean"] for name, entry in entries.items() if len(entry["seeds"]) == most}
    best = (min if less else max)(means.values(), default=None)
    return [name for name, mean in means.items() if mean == best] if len(means) > 1 else []


# --- varied values -----------------------------------------------------------------------------------------------


def _values(ledger: Ledger, readings: Readings) -> dict[str, Facts]:
    """Name -> key -> effective value, of the arms that began, for the keys that any arm's words set."""
    keys = list(dict.fromkeys(key_of(word) for arm in ledger.arms for word in arm.words))
    found = {}
    for arm in ledger.arms:
        reading = readings[arm.number]
        if reading.begun:
            typed = {key_of(word): word.partition("=")[2] for word in arm.words}
            chosen = {key: plain(value) for key, value in (typed | arm.values).items()}
            settled = {key: value_at(reading.config, key) for key in keys}
            found[arm.name] = {key: chosen.get(key) if value is None else value for key, value in settled.items()}
    return found


def _effects(values: Mapping[str, Facts], groups: Mapping[str, Facts], figures: Mapping[str, bool]) -> Facts:
    """varied, effects (key -> figure -> `main_effect`) and interactions (of the main figure)."""
    by_figure = {
        figure: {
            name: group["figures"][figure]["seeds"] for name, group in groups.items() if figure in group["figures"]
        }
        for figure in figures
    }
    keys = varied(values)
    effects = {
        key: found
        for key in keys
        if (found := {f: rows for f, own in by_figure.items() if (rows := main_effect(key, values, own))})
    }
    pairs = (interaction(pair, values, by_figure.get(MAIN, {})) for pair in itertools.combinations(keys, 2))
    return {"varied": keys, "effects": effects, "interactions": [pair for pair in pairs if pair is not None]}
