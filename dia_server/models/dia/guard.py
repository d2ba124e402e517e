"""What can be heard to be wrong with a segment without listening: too long, too short, or silent."""

from __future__ import annotations

import numpy as np

from dia_server.models.dia.codec import Samples

# As the model's authors count; a reading pace in English.
CHARACTERS_PER_SECOND = 15.0
# Slow speech, laughs and pauses stay far below; what goes on for longer has lost the text.
RUNAWAY = 4.0
SPARE_SECONDS = 2.0
# The quickest speech that is still words takes more.
TRUNCATED = 0.25
# Of full scale, in dB: nothing is heard below.
SILENCE_DB = -60.0
LEVEL_SECONDS = 0.05

ATTEMPTS = 3


def seconds(text: str) -> float:
    """How long a reading of `text` takes, about."""
    return len(text) / CHARACTERS_PER_SECOND


def most_seconds(text: str) -> float:
    """How long it may take before it counts as lost."""
    return RUNAWAY * seconds(text) + SPARE_SECONDS


def findings(text: str, length: float, loudest: float, *, is_cut: bool) -> tuple[str, ...]:
    """The names of what is wrong with a segment.

    Args:
        text: what is to be heard.
        length: its seconds.
        loudest: as `level` of its loudest part.
        is_cut: it was ended, instead of ending.
    """
    found = []
    if is_cut:
        found.append("runaway")
    if length < TRUNCATED * seconds(text):
        found.append("truncated")
    if loudest < SILENCE_DB:
        found.append("silent")
    return tuple(found)


def level(samples: Samples, sample_rate: int) -> float:
    """The root mean square of the loudest `LEVEL_SECONDS`, in dB of full scale."""
    size = round(LEVEL_SECONDS * sample_rate)
    parts = np.array_split(samples, max(1, len(samples) // size))
    power = max(float(np.mean(np.square(part))) for part in parts) if len(samples) else 0.0
    return 10 * np.log10(power) if power else -np.inf
