"""The grid on which frames become samples: it is the same for whoever listens, however, and under any load.

The decoder of DAC is convolutional. A frame changes samples up to 9.3 frames before and behind it, so that a window
decoded with ten frames of context on either side holds the samples of the whole decoded at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import NamedTuple

CONTEXT = 10
# Small at first, for who waits; large later, as the context is decoded besides each time.
_GROWING = (4, 4, 8, 16, 32)
_STEADY = 64


class Window(NamedTuple):
    """Frames [start, end) to be heard, decoded from [left, right)."""

    left: int
    start: int
    end: int
    right: int


def ready(after: int, known: int, *, whole: bool) -> Iterator[Window]:
    """The windows from frame `after` on that `known` frames suffice for; `whole` means that no more will come."""
    for start, end in _grid():
        if start < after:
            continue
        if start >= known or (not whole and end + CONTEXT > known):
            return
        yield Window(max(0, start - CONTEXT), start, min(end, known), min(end + CONTEXT, known))


def _grid() -> Iterator[tuple[int, int]]:
    start = 0
    for size in chain(_GROWING, repeat(_STEADY)):
        yield start, start + size
        start += size
