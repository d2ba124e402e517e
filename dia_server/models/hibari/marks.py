"""Where in a sentence's samples its words are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dia_server.models.hibari.network import Floats
from dia_server.models.hibari.reading import Span
from dia_server.tasks import Word

# Durations count 25 ms, F0 and energy 12.5 ms.
FRAMES_PER_DURATION = 2
SAMPLES_PER_FRAME = 300
# The energy's unit is the model's own: -9 in silence, 8 in vowels.
SILENT_ENERGY = -1.0


def locate(spans: Sequence[Span], durations: Floats, energy: Floats) -> tuple[Word, ...]:
    """The words, each from where it begins to sound to where it has faded.

    The model gives the rest before a comma or full stop to the last phoneme, and an onset after a rest to the rest, so
    the edges at rests are looked up in the energy.
    """
    ends = FRAMES_PER_DURATION * np.concatenate([[0], np.cumsum(durations)]).astype(int)
    sounds = energy > SILENT_ENERGY
    words, free = [], 0
    for span in spans:
        start, end = _edges(sounds, free, int(ends[span.start]), int(ends[span.end]))
        words.append(Word(span.word, start * SAMPLES_PER_FRAME, end * SAMPLES_PER_FRAME))
        free = end
    return tuple(words)


def _edges(sounds: NDArray[np.bool_], free: int, start: int, end: int) -> tuple[int, int]:
    """Where the sound between two frames begins, not before `free`, and where it ends."""
    heard = np.flatnonzero(sounds[start:end])
    if len(heard):
        end = start + int(heard[-1]) + 1
    rests = np.flatnonzero(~sounds[free:start])
    if len(rests):
        start = free + int(rests[-1]) + 1
    return start, end
