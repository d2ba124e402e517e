"""Captions: from timed words or sentences to SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from dia_server.services.account import TimedWord

# A line that is read at a glance (BBC subtitle guidelines: 37 to 42 characters), and a rest between two sentences.
LINE_CHARACTERS = 42
REST_SECONDS = 0.6
SENTENCE_ENDS = (".", "!", "?", "\u2026")


class Caption(msgspec.Struct, frozen=True):
    """A text to show; `start` and `end` in seconds."""

    start: float
    end: float
    text: str


def lines_of(words: Iterable[TimedWord]) -> Iterator[Caption]:
    """One caption per line of at most 42 characters; each ends with a sentence or before a rest."""
    for line in _lines(words):
        yield Caption(line[0].start, line[-1].end, " ".join(word.word for word in line))


def srt(captions: Iterable[Caption]) -> str:
    """The captions as a SubRip file."""
    return "\n".join(f"{number}\n{_shown(caption, ',')}" for number, caption in enumerate(captions, start=1))


def vtt(captions: Iterable[Caption]) -> str:
    """The captions as a WebVTT file."""
    return "\n".join(["WEBVTT\n", *(_shown(caption, ".") for caption in captions)])


def _shown(caption: Caption, point: str) -> str:
    return f"{_time(caption.start, point)} --> {_time(caption.end, point)}\n{caption.text}\n"


def _lines(words: Iterable[TimedWord]) -> Iterator[list[TimedWord]]:
    line: list[TimedWord] = []
    for word in words:
        if line and (
            _ends(line[-1], word) or sum(len(each.word) + 1 for each in line) + len(word.word) > LINE_CHARACTERS
        ):
            yield line
            line = []
        line.append(word)
    if line:
        yield line


def _ends(word: TimedWord, following: TimedWord) -> bool:
    return word.word.rstrip("\"')]\u201d\u2019").endswith(SENTENCE_ENDS) or following.start - word.end > REST_SECONDS


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
