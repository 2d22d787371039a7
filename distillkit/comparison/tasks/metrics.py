"""Metrics over predictions and labels, by the names people type."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from distillkit.errors import ConfigError

Metric = Callable[[Sequence[float], Sequence[float]], float]
"""(predictions, labels), both [N] -> the value."""


def accuracy(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The share of labels that were met."""
    return float(accuracy_score(labels, predictions))


def f1(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """F1 of label 1 among labels 0 and 1, as GLUE has it; 0 when neither side holds a 1."""
    return float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0))


def macro_f1(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The plain mean of every label's F1."""
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def matthews(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Matthews correlation, in -1..1; 0 when either side is constant."""
    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Pearson correlation, in -1..1; 0 when either side is constant."""
    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Spearman rank correlation, in -1..1; 0 when either side is constant."""
    return _correlation(spearmanr, predictions, labels)


def _correlation(function: Callable[..., object], predictions: Sequence[float], labels: Sequence[float]) -> float:
    # a constant side has no correlation: scipy says nan, which JSON lacks. It tells nothing of the labels, so 0.
    # Written so that a nan among the predictions counts alike.
    if not (np.ptp(predictions) > 0 and np.ptp(labels) > 0):
        return 0.0
    return float(function(predictions, labels)[0])  # type: ignore[index]


CLASSIFICATION: Mapping[str, Metric] = {"accuracy": accuracy, "f1": f1, "macro_f1": macro_f1, "matthews": matthews}
REGRESSION: Mapping[str, Metric] = {"pearson": pearson, "spearman": spearman}


def choose(names: Iterable[str], known: Mapping[str, Metric]) -> dict[str, Metric]:
    """The metrics of these names, in order; ConfigError when one is unknown or there is none."""
    chosen = list(names)
    if not chosen or not set(chosen) <= known.keys():
        raise ConfigError("no such metric", key="task.*.metrics", value=chosen, allowed=", ".join(known))
    return {name: known[name] for name in chosen}
