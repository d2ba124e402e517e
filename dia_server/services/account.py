"""What came of a clip."""

from __future__ import annotations

import msgspec


class TimedWord(msgspec.Struct, frozen=True):
    """A word of a clip, or some that the model reads as one; `start` and `end` in seconds from the clip's start."""

    word: str
    start: float
    end: float


class Account(msgspec.Struct):
    """What came of a plan so far, for headers, logs and metrics.

    Attributes:
        id: of the request or job, for the log of clips.
        segments: tasks heard to their end.
        seconds: length of the clip.
        first_audio_seconds: from the start until the first encoded byte; None before that.
        fingerprint: of the workers that spoke.
        words: those of the samples heard so far, and of those that come next; empty for a model without marks.
        findings: what the model found wrong with them, as often as it did.
    """

    id: str = ""
    segments: int = 0
    seconds: float = 0.0
    first_audio_seconds: float | None = None
    fingerprint: str | None = None
    words: list[TimedWord] = []
    findings: list[str] = []
