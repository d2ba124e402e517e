"""Where one sentence ends and the next begins, and where a long one may be cut."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from math import ceil

from sentencex import segment

# The library takes quadratic time in quotation marks; in blocks of this size that is a few milliseconds.
_BLOCK_CHARACTERS = 10_000

# What the library takes for a sentence's end and is none: the number of a list's item, and some abbreviations that
# always have something behind them.
_UNFINISHED = re.compile(
    r"^\W*(?:\d{1,3}|[A-Za-z])[.)]\s*$"
    r"|\b(?:Ms|Mx|[Aa]pprox|[Cc]hap|[Ee]xcl|[Ii]ncl|[Ff]igs|[Vv]ols?|[Tt]bsp|[Tt]sp)\.\s*$"
)
# Quotation marks and brackets that close behind a full stop or a comma. A full stop counts behind four letters, so
# that no title is parted from its name; wide signs need no blank behind them.
_CLOSING = r"[\"')\]\u2019\u201d\u00bb]*"
_SENTENCE_END = re.compile(rf"(?:[!?\u2026]|(?<=[a-z]{{4}})\.){_CLOSING} |[\u3002\uff01\uff1f]{_CLOSING}")
_CLAUSE_END = re.compile(rf"[,;:\u2013]{_CLOSING} | - |\u2014{_CLOSING}|[\u3001\uff0c\uff1a\uff1b]{_CLOSING}")
# The one non-verbal tag of two words stays whole.
_BLANK = re.compile(r"(?<!\(clears) ")
_JOINER = "\u200d"


def split_sentences(text: str, language: str) -> list[str]:
    r"""The sentences of cleaned text, without the blanks around them; every line feed ends one.

    Args:
        text: as `text.clean` leaves it: the library crashes on blanks other than U+0020.
        language: ISO 639-1 code; one that the library doesn't know is split like English.
    """
    lines = (block for line in text.split("\n") for block in cut(line, _BLOCK_CHARACTERS))
    return [sentence for line in lines for sentence in _whole_sentences(segment(language, line))]


def _whole_sentences(pieces: Iterable[str]) -> Iterator[str]:
    sentence: list[str] = []
    for piece in pieces:
        sentence.append(piece)
        if not _UNFINISHED.search(piece):
            yield "".join(sentence).strip()
            sentence = []
    if sentence:
        yield "".join(sentence).strip()


def cut(sentence: str, characters: int) -> Iterator[str]:
    """Pieces of about equal length, none longer than `characters`, without the blanks around them.

    Where it can be, a cut stands behind a sentence's end within quotes, then behind a clause, then at a blank; only
    where there is no blank either, it falls within a word.
    """
    start, end = 0, len(sentence)
    while start < end:
        stop = end if end - start <= characters else _next_cut(sentence, start, characters)
        if piece := sentence[start:stop].strip():
            yield piece
        start = stop


def _next_cut(sentence: str, start: int, characters: int) -> int:
    rest = len(sentence) - start
    goal = start + rest / ceil(rest / characters)
    last = start + characters
    early = start + characters / 2  # a cut before that would leave a scrap
    for pattern, first in ((_SENTENCE_END, early), (_CLAUSE_END, early), (_BLANK, start)):
        ends = [found.end() for found in pattern.finditer(sentence, start, last) if found.end() > first]
        if ends:
            return min(ends, key=lambda end: abs(end - goal))
    return _between_characters(sentence, start, last)


def _between_characters(sentence: str, start: int, last: int) -> int:
    """The last place up to `last` that parts no letter from its marks; `last` itself if there is none."""
    for place in range(last, start, -1):
        if not (unicodedata.category(sentence[place]).startswith("M") or _JOINER in sentence[place - 1 : place + 1]):
            return place
    return last
