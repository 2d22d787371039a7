"""Between characters of a context and tokens of a window of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Found(NamedTuple):
    """A piece of a context: the sum of its logits, its first character, the one after its last."""

    score: float
    start: int
    end: int


def token_span(starts: Sequence[int], ends: Sequence[int], answers: Mapping[str, Any], null: int) -> tuple[int, int]:
    """First and last token of a row's first answer in a window.

    Args:
        starts, ends: characters that each token covers; -1 outside the context.
        answers: {"text": [...], "answer_start": [...]}.
        null: what both are where the window has not the whole answer.
    """
    inside = [place for place, start in enumerate(starts) if start >= 0]
    if not answers["text"] or not inside:
        return null, null
    text = answers["text"][0]
    begin = answers["answer_start"][0] + len(text) - len(text.lstrip())  # a space around an answer is in no token
    end = begin + len(text.strip())
    covering = [place for place in inside if ends[place] > begin and starts[place] < end]
    if not covering or starts[inside[0]] > begin or ends[inside[-1]] < end:
        return null, null
    return covering[0], covering[-1]


def best_span(
    start: NDArray[np.float32],
    end: NDArray[np.float32],
    starts: Sequence[int],
    ends: Sequence[int],
    n_best: int,
    longest: int,
) -> Found | None:
    """The best piece of the context in a window, by start + end.

    Args:
        start, end: [tokens], logits.
        starts, ends: characters that each token covers; -1 outside the context.
        n_best: starts and ends of the context that are paired.
        longest: tokens of a piece at most.

    Returns:
        The piece, or None where no pair is one.
    """
    inside = np.flatnonzero(np.asarray(starts) >= 0)
    first, last = (inside[np.argsort(-logits[inside], kind="stable")[:n_best]] for logits in (start, end))
    lengths = last[None, :] - first[:, None] + 1
    scores = start[first][:, None] + end[last][None, :]
    scores = np.where((lengths >= 1) & (lengths <= longest), scores, -np.inf)
    if not np.isfinite(scores).any():
        return None
    row, column = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return Found(float(scores[row, column]), starts[first[row]], ends[last[column]])
