"""A segment on its way: from rows of codes to samples that may be sent."""

from __future__ import annotations

import numpy as np

from dia_server.models.dia import guard, windows
from dia_server.models.dia.architecture import Architecture
from dia_server.models.dia.codec import Codec, Samples
from dia_server.models.dia.delay import Codes, frames_of
from dia_server.models.dia.runtime import Run
from dia_server.models.dia.windows import Window
from dia_server.tasks import Audio, Speak


class Speaking:
    """A task in its slot, from its first step to its last sample.

    Attributes:
        run: the try that goes on; `restart` takes another.
        attempt: its number.
        words: what is new in the text, without tags.
        is_held: nothing is sent before the end.
        is_out: some of it was ready to be sent before the end was known, so that it can't be made anew.
        frames: of the whole segment; None while it goes on.
        sent: samples.
    """

    def __init__(self, task: Speak, run: Run, words: str, architecture: Architecture, *, is_held: bool) -> None:
        self.task = task
        self.words = words
        self.is_held = is_held
        self.is_out = False
        self.sent = 0
        self.attempt = 0
        self._architecture = architecture
        self._begin(run)

    def _begin(self, run: Run) -> None:
        self.run = run
        self.frames: int | None = None
        self._taken = 0
        self._heard = 0
        self._kept: list[Audio] = []
        self._loudest = -np.inf
        self._rows: list[Codes] = []

    def restart(self, run: Run) -> None:
        """Begin anew with the next attempt, of which nothing is known yet."""
        self.attempt += 1
        self._begin(run)

    def add(self, row: Codes, since: int) -> None:
        """The next row, and how long ago the end began, -1 if it has not; what comes behind the end is nothing."""
        if self.frames is not None:
            return
        self._rows.append(row)
        if since == self._architecture.max_delay:
            # The end's own row is the first that is no frame.
            self.frames = len(self._rows) - since - 1

    def take_ready(self) -> list[Window]:
        """The windows that can be decoded now and could not before."""
        known = len(self._rows) - self._architecture.max_delay if self.frames is None else self.frames
        found = list(windows.ready(self._taken, known, whole=self.frames is not None))
        if found:
            self._taken = found[-1].end
            self.is_out |= self.frames is None and not self.is_held
        return found

    def codes(self, first: int, last: int) -> Codes:
        """Frames [first, last), (frames, channels)."""
        return frames_of(np.array(self._rows[first : last + self._architecture.max_delay]), self._architecture)

    @property
    def is_over(self) -> bool:
        """Whether all of it was heard."""
        return self._heard == self.frames

    def hear(self, window: Window, samples: Samples, codec: Codec) -> None:
        """Keep what is to be heard of a window's samples; windows come in their order."""
        hop = codec.hop_length
        heard = samples[(window.start - window.left) * hop : (window.end - window.left) * hop]
        self._loudest = max(self._loudest, guard.level(heard, codec.sample_rate))
        self._heard = window.end
        self._kept.append(Audio(window.start * hop, heard.astype("<f4", copy=False).tobytes()))

    def sendable(self) -> list[Audio]:
        """What was heard and may be sent; it is the caller's then."""
        if self.is_held and not self.is_over:
            return []
        kept, self._kept = self._kept, []
        return kept

    def findings(self, codec: Codec) -> tuple[str, ...]:
        """What is wrong with the segment; nothing is known before it was heard to its end."""
        if self.frames is None or not self.is_over:
            return ()
        seconds = self.frames * codec.hop_length / codec.sample_rate
        return guard.findings(
            self.words, seconds, loudest=self._loudest, is_cut=self.frames >= self.run.reading.most_frames
        )
