"""Searches: arms that are drawn one after the other, by what the earlier ones reached, with Optuna."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from distillkit.errors import ConfigError, RunStateError
from distillkit.storage import write_bytes
from distillkit.sweeps.arms import STUDY, Arm, Ledger
from distillkit.sweeps.space import Dimension, read_space

_NAME = "sweep"
_SAMPLERS = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
_PRUNERS = {None: optuna.pruners.NopPruner, "median": optuna.pruners.MedianPruner,
            "asha": optuna.pruners.SuccessiveHalvingPruner}  # fmt: skip


class OptunaSearcher:
    """A search that minimizes a metric, in SWEEP/study.journal, which a kill at any moment leaves readable.

    What trial n draws is a pure function of the seed, n, and for TPE the trials the study holds by then. So random
    search gives the same arms whatever is killed and however many arms run at once; TPE does with one arm at a time,
    while with several the order in which they end decides what a draw has seen. TPE's first ten trials are random.

    A trial that ran when the sweep was killed belongs to the arm of its number and is told when that has ended. A trial
    whose arm the ledger lacks (killed between the two files) is given out again, with what it had drawn.

    Args:
        folder: of the sweep; this process alone uses it.
        vary: values by key in Hydra's sweep grammar.
        method: "random" or "tpe".
        trials: of the whole search, failed and pruned ones included.
        seed: of the draws and of every arm.
        pruner: null, "median" (worse than the median of the others at the same step, after five trials) or "asha"
            (successive halving).
        planned: numbers of the arms the ledger has already.

    Raises:
        ConfigError: an unknown method or pruner, no trials, or values outside of the grammar.
        RunStateError: the study's file is damaged or lacks arms of the ledger.
    """

    def __init__(
        self, folder: Path, vary: Mapping[str, Any], *, method: str, trials: int | None, seed: int,
        pruner: str | None = None, planned: Collection[int] = (),
    ) -> None:  # fmt: skip
        _check_choices(method, trials, pruner)
        self._space, self._method, self._trials, self._seed = read_space(vary), method, trials or 0, seed
        self._names = _short_names([dimension.key for dimension in self._space])
        self._planned = set(planned)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage = _open_storage(folder / STUDY)
        self._study = optuna.create_study(
            study_name=_NAME, storage=self._storage, pruner=_PRUNERS[pruner](), direction="minimize",
            load_if_exists=True,
        )  # fmt: skip
        if self._planned and max(self._planned) >= len(self._study.trials):
            raise RunStateError("the study lacks arms of the sweep", key="study", value=folder / STUDY,
                                fix="put it back, or choose another run.dir")  # fmt: skip

    def ask(self) -> Arm | None:
        """As the protocol says."""
        number = next((trial.number for trial in self._study.trials if trial.number not in self._planned), None)
        if number is None:
            if len(self._study.trials) >= self._trials:
                return None
            number = self._study.ask().number
        self._planned.add(number)
        trial = self._trial(number)
        drawn = [self._drawn(trial, place, dimension) for place, dimension in enumerate(self._space)]
        name = ",".join(f"{short}={_shown(value)}" for short, (_, value) in zip(self._names, drawn, strict=True))
        words = [f"{dimension.key}={word}" for dimension, (word, _) in zip(self._space, drawn, strict=True)]
        values = {dimension.key.lstrip("+"): value for dimension, (_, value) in zip(self._space, drawn, strict=True)}
        return Arm(number, name, self._seed, words, values)

    def report(self, arm: Arm, step: int, value: float) -> bool:
        """As the protocol says; a step told before, which a continued arm tells again, counts once."""
        trial = self._trial(arm.number)
        known = self._study.trials[arm.number]
        if known.state.is_finished():
            return known.state == TrialState.PRUNED
        if step not in known.intermediate_values:
            trial.report(value, step)
        return trial.should_prune()

    def tell(self, arm: Arm, value: float | None) -> None:
        """As the protocol says; what has been told stays, so an arm that failed and was tried again remains a failure
        to the search."""
        if arm.status == "pruned":
            self._study.tell(arm.number, state=TrialState.PRUNED, skip_if_finished=True)
        elif value is None or not math.isfinite(value):
            self._study.tell(arm.number, state=TrialState.FAIL, skip_if_finished=True)
        else:
            self._study.tell(arm.number, value, skip_if_finished=True)

    def _trial(self, number: int) -> Trial:
        study = self._storage.get_study_id_from_name(_NAME)
        return Trial(self._study, self._storage.get_trial_id_from_study_id_trial_number(study, number))

    def _drawn(self, trial: Trial, place: int, dimension: Dimension) -> tuple[str, Any]:
        """(Hydra's word, plain value) that a trial has, or now gets, in a dimension."""
        seed = np.random.SeedSequence([self._seed, trial.number, place]).generate_state(1)[0]
        self._study.sampler = _SAMPLERS[self._method](seed=int(seed))
        if dimension.choices is not None and dimension.values is not None:
            word = trial.suggest_categorical(dimension.key, dimension.choices)
            return word, dimension.values[dimension.choices.index(word)]
        key, low, high, log = dimension.key, dimension.low, dimension.high, dimension.log
        if dimension.whole:
            value: float = trial.suggest_int(key, int(low), int(high), log=log)
        else:
            value = trial.suggest_float(key, low, high, log=log)
        return repr(value), value


def searcher(folder: Path, ledger: Ledger) -> OptunaSearcher:
    """What chooses the arms of a sweep, as its definition says.

    Args:
        folder: of the sweep.
        ledger: as found there; its arms are trials already.
    """
    sweep = ledger.sweep
    return OptunaSearcher(
        folder, sweep["vary"], method=sweep["method"], trials=sweep["trials"], seed=sweep["seeds"][0],
        pruner=sweep["pruner"], planned=[arm.number for arm in ledger.arms],
    )  # fmt: skip


def _check_choices(method: str, trials: int | None, pruner: str | None) -> None:
    if method not in _SAMPLERS:
        raise ConfigError("no such search", key="sweep.method", value=method, allowed="grid, random, tpe")
    if pruner not in _PRUNERS:
        raise ConfigError("no such pruner", key="sweep.pruner", value=pruner, allowed="null, median, asha")
    if trials is None or trials < 1:
        raise ConfigError("a search needs its number of trials", key="sweep.trials", value=trials, allowed="from 1")


def _open_storage(path: Path) -> JournalStorage:
    """Optuna's journal. It is read to its last whole line: Optuna would append to half a line, and lose both."""
    # a killed process leaves it, and Optuna would wait half a minute for it
    (path.parent / f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
        write_bytes(path, content[: content.rfind(b"\n") + 1])
    try:
        return JournalStorage(JournalFileBackend(str(path)))
    except (ValueError, KeyError) as error:
        raise RunStateError(
            f"a damaged study ({' '.join(str(error).split())})", key="study", value=path,
            fix="choose another run.dir, or remove it",
        ) from None  # fmt: skip


def _short_names(keys: list[str]) -> list[str]:
    """The last parts of keys where these are unambiguous."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
