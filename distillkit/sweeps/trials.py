"""The trials of a search: what was tried, how good it was, and which parameters mattered."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillkit.sweeps.arms import STUDY, Ledger
from distillkit.sweeps.outcomes import last_value
from distillkit.sweeps.readings import plain


def search_facts(ledger: Ledger, folder: Path) -> dict[str, Any]:
    """The facts of a random or TPE search.

    Args:
        ledger: of the sweep.
        folder: of the sweep.

    Returns:
        metric (minimized), parameters (keys, the most important first where that is known), trials
        (number, status, values by key, value: `last_value` of the metric), best_so_far (per trial,
        over those that are done), best (number of the best; None without one), importance (key -> share; None
        without its study or enough trials).
    """
    metric = ledger.sweep["metric"]
    trials: list[dict[str, Any]] = [
        {
            "number": arm.number, "status": arm.status, "value": last_value(folder / arm.folder, metric),
            "values": {key: plain(value) for key, value in arm.values.items()},
        }
        for arm in ledger.arms
    ]  # fmt: skip
    done = [trial for trial in trials if trial["status"] == "done" and trial["value"] is not None]
    best = min(done, key=lambda trial: trial["value"], default=None)
    heights: Iterator[float] = (trial["value"] if trial in done else math.inf for trial in trials)
    importance = _importance(folder / STUDY)
    keys = list(dict.fromkeys(key for trial in trials for key in trial["values"]))
    return {
        "metric": metric, "parameters": sorted(keys, key=lambda key: -(importance or {}).get(key, 0.0)),
        "trials": trials, "best_so_far": list(itertools.accumulate(heights, min)),
        "best": best and best["number"], "importance": importance,
    }  # fmt: skip


def _importance(study_file: Path) -> dict[str, float] | None:
    """Optuna's importance of each parameter, over the finished trials of a study.

    Source: PED-ANOVA, Watanabe et al. 2023, which Optuna computes: it asks how the best trials differ from all.
    """
    if not study_file.is_file():
        return None
    import optuna  # late: only searches need it
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(study_file)))
    names = optuna.get_all_study_names(storage)
    if not names:
        return None
    study = optuna.load_study(study_name=names[0], storage=storage)
    finished = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len({trial.value for trial in finished}) < 2:
        return None
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
