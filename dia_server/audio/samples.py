"""What the stages pass on to each other, and its one way into 16 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono samples, nominally within [-1, 1], in an array of shape (n,)."""

NO_SAMPLES: Samples = np.zeros(0, np.float32)


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Samples clipped to [-1, 1] and rounded to the nearest of 65,535 steps; every format is made of these."""
    rounded: Samples = np.rint(np.clip(samples, -1, 1) * np.float32(32767))
    return rounded.astype(np.int16)
