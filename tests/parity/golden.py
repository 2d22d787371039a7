"""Computes golden.json: one fixed batch and what its losses and a gradient must be. numpy only, float64.

The formulas are written out from the definitions, position by position; no line is shared with distillkit.
Run it once, `python tests/parity/golden.py`; the tests only read the file.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

V, H, PAD = 6, 4, 0
ALPHA, BETA, GAMMA, TEMPERATURE = 5.0, 2.0, 1.0, 2.0
IDS = [[1, 4, 2, 5, 3], [3, 2, 1, 0, 0], [5, 1, 0, 0, 0]]
LABELS = [[-100, 3, -100, 1, -100], [-100, -100, 4, -100, -100], [-100, 2, -100, -100, -100]]


def table(rows: int, columns: int, phase: float) -> np.ndarray:
    """A matrix of round numbers without a pattern that a wrong index would survive."""
    return np.round(1.5 * np.sin(phase + 1.7 * np.arange(rows * columns) ** 1.1), 2).reshape(rows, columns)


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def main() -> None:
    """Writes golden.json beside this file."""
    hidden = {"student": table(V, H, 0.3), "teacher": table(V, H, 2.1)}
    decoder = {"student": table(V, H, 4.4), "teacher": table(V, H, 5.2)}
    sums = {"ce_all": 0.0, "ce_predicted": 0.0, "mlm": 0.0, "cos": 0.0}
    attended, predicted = sum(i != PAD for row in IDS for i in row), sum(n != -100 for row in LABELS for n in row)
    gradient = np.zeros((V, H))  # of alpha * ce_all + beta * mlm + gamma * cos in the student's decoder
    for token, label in zip(np.ravel(IDS), np.ravel(LABELS), strict=True):
        if token == PAD:
            continue
        h, g = hidden["student"][token], hidden["teacher"][token]
        z, y = decoder["student"] @ h, decoder["teacher"] @ g
        q, p = probabilities(z / TEMPERATURE), probabilities(y / TEMPERATURE)
        kl = TEMPERATURE**2 * float(np.sum(p * (np.log(p) - np.log(q))))
        sums["ce_all"] += kl
        sums["cos"] += 1 - float(h @ g) / float(np.sqrt((h @ h) * (g @ g)))
        gradient += np.outer(ALPHA * TEMPERATURE * (q - p) / attended, h)
        if label != -100:
            sums["ce_predicted"] += kl
            sums["mlm"] -= float(np.log(probabilities(z)[label]))
            gradient += np.outer(BETA * (probabilities(z) - np.eye(V)[label]) / predicted, h)
    counts = {"ce_all": attended, "ce_predicted": predicted, "mlm": predicted, "cos": attended}
    means = {name: sums[name] / counts[name] for name in sums}
    totals = {
        positions: ALPHA * means[f"ce_{positions}"] + BETA * means["mlm"] + GAMMA * means["cos"]
        for positions in ("all", "predicted")
    }
    golden = {
        "weights": {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA, "temperature": TEMPERATURE},
        "input_ids": IDS,
        "labels": LABELS,
        "hidden": {name: x.tolist() for name, x in hidden.items()},
        "decoder": {name: x.tolist() for name, x in decoder.items()},
        "means": means,
        "counts": counts,
        "totals": totals,
        "student_decoder_gradient": gradient.tolist(),
    }
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
