"""Metrics against published figures and against their formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from distillkit.comparison.tasks.metrics import (
    CLASSIFICATION,
    REGRESSION,
    accuracy,
    choose,
    f1,
    macro_f1,
    matthews,
    pearson,
    spearman,
)
from distillkit.errors import ConfigError


def test_metrics_are_the_published_figures_when_given_their_examples() -> None:
    # scikit-learn's and scipy's own documentation
    assert accuracy([0, 2, 1, 3], [0, 1, 2, 3]) == 0.5
    assert f1([0, 1, 0, 0, 1, 1], [0, 1, 0, 1, 0, 1]) == pytest.approx(2 / 3)
    assert macro_f1([0, 2, 1, 0, 0, 1], [0, 1, 2, 0, 1, 2]) == pytest.approx(0.26, abs=0.01)
    assert matthews([1, 0, 1, 1], [1, 1, 1, 0]) == pytest.approx(-1 / 3)
    assert pearson([1, 2, 3, 4, 5, 6, 7], [10, 9, 2.5, 6, 4, 3, 2]) == pytest.approx(-0.828503883588428)
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826816681233)


def test_metrics_follow_their_formulas_when_predictions_are_unbalanced() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.2).astype(int)
    guesses = np.where(rng.random(200) < 0.7, labels, 1 - labels)
    tp, fp = int((guesses & labels).sum()), int((guesses & ~labels & 1).sum())
    fn, tn = int((~guesses & 1 & labels).sum()), int((~guesses & ~labels & 1).sum())
    assert accuracy(guesses, labels) == pytest.approx((tp + tn) / 200)
    assert f1(guesses, labels) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert macro_f1(guesses, labels) == pytest.approx(tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn))
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert matthews(guesses, labels) == pytest.approx((tp * tn - fp * fn) / root)


def test_correlations_follow_their_formulas_when_ranks_tie() -> None:
    one, two = [1.0, 2.0, 2.0, 4.0, 9.0], [0.5, 0.1, 3.0, 3.0, 4.0]
    ranks = [1.0, 2.5, 2.5, 4.0, 5.0], [2.0, 1.0, 3.5, 3.5, 5.0]
    for metric, (x, y) in ((pearson, (one, two)), (spearman, ranks)):
        dx, dy = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
        assert metric(one, two) == pytest.approx(float((dx * dy).sum() / math.sqrt((dx**2).sum() * (dy**2).sum())))


@pytest.mark.parametrize("metric", [matthews, pearson, spearman])
@pytest.mark.parametrize("predictions", [[1, 1, 1], [1]])
def test_correlation_is_zero_when_predictions_are_constant(metric, predictions) -> None:
    with np.errstate(all="raise"):
        assert metric(predictions, [0, 1, 1][: len(predictions)]) == 0.0


def test_correlation_is_zero_when_a_prediction_is_not_a_number() -> None:
    assert pearson([1.0, math.nan], [1.0, 2.0]) == spearman([1.0, math.nan], [1.0, 2.0]) == 0.0


def test_f1_is_zero_without_a_warning_when_no_positive_is_there(recwarn: pytest.WarningsRecorder) -> None:
    assert f1([0, 0], [0, 0]) == f1([0, 0], [0, 1]) == 0.0
    assert macro_f1([0, 0], [0, 1]) == pytest.approx(1 / 3)
    assert not recwarn


def test_choose_keeps_the_order_or_names_the_metrics_when_one_is_unknown() -> None:
    assert list(choose(["f1", "accuracy"], CLASSIFICATION)) == ["f1", "accuracy"]
    for names in (["accuracy", "auc"], []):
        with pytest.raises(ConfigError, match=r"task\.\*\.metrics=.*no such metric; allowed: pearson, spearman"):
            choose(names, REGRESSION)
