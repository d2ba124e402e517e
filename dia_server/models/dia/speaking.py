"""A segment on its way: from rows of codes to samples that may be sent."""

from __future__ import annotations

import numpy as np

from dia_server.models.dia import guard, windows
from dia_server.models.dia.codec import Codec, Samples
from dia_server.models.dia.delay import Codes, frames_of
from dia_server.models.dia.runtime import Reading, Run, Runtime
from dia_server.models.dia.windows import Window


class Speaking:
    """One try of a segment.

    Attributes:
        text: what is new in it, for `guard`.
        is_held: nothing is sent before the end.
        frames: of the whole segment; None while it goes on.
        heard: frames that are samples already.
    """

    def __init__(self, run: Run, text: str, runtime: Runtime, *, is_held: bool) -> None:
        self.run = run
        self.text = text
        self.is_held = is_held
        self.frames: int | None = None
        self.heard = 0
        self.loudest = -np.inf
        self._architecture = runtime.architecture
        self._rows: list[Codes] = []

    @property
    def reading(self) -> Reading:
        return self.run.reading

    def add(self, row: Codes, since: int) -> None:
        """The next row, and how long ago the end began, -1 if it has not."""
        self._rows.append(row)
        if since == self._architecture.max_delay:
            # The end's own row is the first that is no frame.
            self.frames = len(self._rows) - since - 1

    def ready(self) -> list[tuple[Window, Codes]]:
        """The windows that can be decoded now, with their codes."""
        whole = self.frames is not None
        if self.is_held and not whole:
            return []
        known = self.frames if self.frames is not None else max(0, len(self._rows) - self._architecture.max_delay)
        return [(each, self.codes(each.left, each.right)) for each in windows.ready(self.heard, known, whole=whole)]

    def codes(self, first: int, last: int) -> Codes:
        """Frames [first, last), (frames, channels)."""
        return frames_of(np.array(self._rows[first : last + self._architecture.max_delay]), self._architecture)

    def hear(self, window: Window, samples: Samples, codec: Codec) -> Samples:
        """The samples of a decoded window that are to be heard."""
        hop = codec.hop_length
        heard = samples[(window.start - window.left) * hop : (window.end - window.left) * hop]
        self.loudest = max(self.loudest, guard.level(heard, codec.sample_rate))
        self.heard = window.end
        return heard

    def findings(self, codec: Codec) -> tuple[str, ...]:
        """What is wrong with the whole segment."""
        frames = self.frames or 0
        seconds = frames * codec.hop_length / codec.sample_rate
        return guard.findings(self.text, seconds, self.loudest, is_cut=frames >= self.reading.most_frames)
