"""Captions from timed words, in SubRip's format (.srt)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dia_server.services.speech import TimedWord

# A line that is read at a glance (BBC subtitle guidelines: 37 to 42 characters), and a rest between two sentences.
LINE_CHARACTERS = 42
REST_SECONDS = 0.6
SENTENCE_ENDS = (".", "!", "?", "\u2026")


def srt(words: Iterable[TimedWord]) -> str:
    """One caption per line of at most 42 characters; each ends with a sentence or before a rest."""
    captions = []
    for number, line in enumerate(_lines(words), start=1):
        text = " ".join(word.word for word in line)
        captions.append(f"{number}\n{_time(line[0].start)} --> {_time(line[-1].end)}\n{text}\n")
    return "\n".join(captions)


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


def _time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02},{milliseconds % 1000:03}"
