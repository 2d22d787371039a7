"""The ablation of the loss weights beside the DistilBERT paper's: where the orders agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from scipy.stats import kendalltau

from distillkit.sweeps.differences import paired, told

SWEEP = "loss_weights"
"""Name of the sweep that has these arms."""
LOST = {"full": 0.0, "no_mlm": -0.31, "no_cosine": -1.46, "no_ce": -2.96, "random_init": -3.69}
"""What the average score on GLUE loses, in points: Sanh et al. 2019 (arXiv 1910.01108), the table of the ablation."""


def beside_paper(groups: Mapping[str, Any], lower_is_better: Mapping[str, bool]) -> dict[str, Any] | None:
    """Our order of the arms beside the paper's.

    Args:
        groups: of the results: arm's name -> figures.
        lower_is_better: figure's name -> which end is good.

    Returns:
        figures: name -> tau (Kendall's, 1: the same order, -1: the reverse), arms (how many), and pairs: better and
        worse (in the paper), points (between them there), difference (`paired`, ours, worse - better) and verdict,
        "agrees", "disagrees", or "open" where the seeds do not tell. None with fewer than two of the paper's arms.
    """
    found = {}
    for figure, lower in lower_is_better.items():
        own = {name: groups[name]["figures"][figure] for name in LOST if figure in _figures(groups, name)}
        if len(own) < 2:
            continue
        sign = 1 if lower else -1
        ours = [sign * own[name]["mean"] for name in own]
        tau = kendalltau([-LOST[name] for name in own], ours).statistic
        pairs = [_pair(one, other, own, sign) for one, other in itertools.combinations(own, 2)]
        found[figure] = {"tau": float(tau), "arms": len(own), "pairs": pairs}
    return {"figures": found} if found else None


def _figures(groups: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return groups.get(name, {"figures": {}})["figures"]


def _pair(better: str, worse: str, own: Mapping[str, Any], sign: int) -> dict[str, Any]:
    difference = paired(own[worse]["seeds"], own[better]["seeds"])
    verdict = "open"
    if told(difference):
        verdict = "agrees" if sign * difference["mean"] > 0 else "disagrees"
    points = round(LOST[better] - LOST[worse], 2)
    return {"better": better, "worse": worse, "points": points, "difference": difference, "verdict": verdict}
