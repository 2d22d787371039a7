"""What seeds tell: a mean with its spread, and how sure a difference between two arms is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import t as student_t

SURE = 0.95
"""Of a confidence interval."""


def spread(values: Mapping[str, float]) -> dict[str, Any]:
    """A figure over seeds.

    Args:
        values: seed -> figure; at least one.

    Returns:
        mean, sd (with n - 1; None for one seed) and seeds, the values themselves.
    """
    numbers = list(values.values())
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "sd": sd, "seeds": dict(values)}


def paired(own: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """The mean difference own - other over the seeds that both have, and its interval.

    Pairs share their seed, so batches, masks and dropout: what these do to both leaves the difference.

    Args:
        own, other: seed -> figure.

    Returns:
        mean (None without a common seed), low and high of the 95% confidence interval (None below two seeds) and
        seeds, the number of pairs.

    Source: Student's t interval of the mean of paired differences, n - 1 degrees of freedom.
    """
    pairs = [own[seed] - other[seed] for seed in own if seed in other]
    if not pairs:
        return {"mean": None, "low": None, "high": None, "seeds": 0}
    mean, half = statistics.fmean(pairs), interval(pairs)
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "seeds": len(pairs)}


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the mean's 95% confidence interval; None below two values."""
    if len(values) < 2:
        return None
    quantile = float(student_t.ppf((1 + SURE) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def told(difference: Mapping[str, Any]) -> bool:
    """Whether the seeds tell a difference from none: its interval is known and leaves out zero."""
    return difference["low"] is not None and (difference["low"] > 0 or difference["high"] < 0)
