"""Random numbers named by what they are for, so that nothing random has to be remembered."""

from __future__ import annotations

import numpy as np

MASK_STREAM = 1
"""Masks of a row."""

ORDER_STREAM = 2
"""Order of an epoch's rows."""

SWAP_STREAM = 3
"""Whether a row shows its two segments swapped."""

CUT_STREAM = 4
"""Where rows of sentences are cut into two segments."""


def generator(seed: int, stream: int, epoch: int, index: int = 0) -> np.random.Generator:
    """A generator whose numbers are a function of the arguments and belong to them alone.

    Args:
        seed: any integer; taken modulo 2**64.
        stream: what the numbers are for, one of the constants above.
        epoch: of the data, from 0.
        index: of the row, from 0.
    """
    # Philox counts up in the counter's first word, so streams that differ in another word never meet. Unsigned arrays,
    # because a list with a number of 2**63 or more goes through float64 and loses its last bits.
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    counter = np.array([0, 0, epoch, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
