"""From text to the phonemes of its sentences, with the words that they spell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from hibari.g2p import G2P
from hibari.g2p.lexicon import VOWELS
from hibari.g2p.normalize import normalize
from numpy.typing import NDArray

from dia_server.models.hibari.normalizing import plain

# hibari-tts 0.2.1 fails on the digits in parentheses, and takes `[word](/sounds/)` for spelled-out phonemes.
# It also fails on numbers of 37 digits; those that nobody says as a number are spelled out.
LONG_NUMBER = re.compile(r"\d(?:,?\d){15,}")
READABLE = {chr(0x2474 + number): f"({number + 1})" for number in range(9)} | {"](/": "] (/"}

# What the graph takes at once is bounded by its training; longer sentences are cut behind a clause, else a word.
MAX_PHONEMES = 400
_CLAUSE_END = re.compile(r"(?<=[,;:\u2014]) ")
_WORD_END = re.compile(" ")

PAD = 0
PUNCTUATION = frozenset(';:,.!?\u2014\u2026"()\u201c\u201d')
BLANK = " "
PRIMARY_STRESS = "\u02c8"
_EDGES = re.compile(r"^\W+|\W+$")


class Span(NamedTuple):
    """A word and its place in a sentence's ids, `start` to `end`."""

    word: str
    start: int
    end: int


class Sentence(NamedTuple):
    """What the graph takes at once.

    Attributes:
        ids: of the phonemes, between two pads.
        is_pause: whether an id is a pad or punctuation.
        is_stressed: whether an id is a vowel with primary stress.
        words: in order.
    """

    ids: list[int]
    is_pause: NDArray[np.bool_]
    is_stressed: NDArray[np.bool_]
    words: tuple[Span, ...]


class Reader:
    """Reads text as hibari-tts does, and remembers which phonemes spell which word."""

    def __init__(self, vocabulary: dict[str, int], g2p: G2P) -> None:
        self._vocabulary = vocabulary
        self._g2p = g2p

    def read(self, text: str, *, is_plain: bool = True) -> Iterator[Sentence]:
        """A sentence, in pieces if it is long; nothing if there is nothing to say in it.

        One that isn't plain is made so before it is read; its words stay those that are written.
        """
        phonemes, words = self._phonemes(text, is_plain=is_plain)
        for start, end in _cuts(phonemes):
            inside = [(word, first - start, last - start) for word, first, last in words if start <= first < end]
            yield self._sentence(phonemes[start:end], inside)

    def _phonemes(self, sentence: str, *, is_plain: bool) -> tuple[str, list[tuple[str, int, int]]]:
        """The sentence's phonemes, and for each written word the part that spells it."""
        spoken = normalize(_readable(sentence) if is_plain else plain(_readable(sentence)))
        phonemes, parts = "", [("", 0, 0)]
        for token in self._g2p.phonemize_tokens(self._g2p.tokenize(spoken)):
            text, start, _ = parts.pop()
            phonemes += token.phonemes or ""
            parts.append((text + token.text, start, len(phonemes)))
            if token.whitespace:
                phonemes += " "
                parts.append(("", len(phonemes), len(phonemes)))
        lead = len(phonemes) - len(phonemes.lstrip())
        spans = [(text, max(start - lead, 0), max(end - lead, 0)) for text, start, end in parts if text]
        return phonemes.strip(), list(_written(sentence.split(), spans))

    def _sentence(self, phonemes: str, words: list[tuple[str, int, int]]) -> Sentence:
        known = [phoneme in self._vocabulary for phoneme in phonemes]
        # The id behind as many known phonemes, and behind the pad.
        place = np.concatenate([[1], 1 + np.cumsum(known)])
        symbols = [phoneme for phoneme, is_known in zip(phonemes, known, strict=True) if is_known]
        spans = []
        for word, start, end in words:
            sounding = [at for at in range(start, min(end, len(phonemes))) if known[at] and _sounds(phonemes[at])]
            if sounding:
                spans.append(Span(word, int(place[sounding[0]]), int(place[sounding[-1] + 1])))
        return Sentence(
            [PAD, *(self._vocabulary[symbol] for symbol in symbols), PAD],
            np.array([True, *(symbol in PUNCTUATION for symbol in symbols), True]),
            np.array([False, *_stressed(symbols), False]),
            tuple(spans),
        )


def _readable(text: str) -> str:
    text = LONG_NUMBER.sub(lambda number: " ".join(number[0].replace(",", "")), text)
    for unreadable, readable in READABLE.items():
        text = text.replace(unreadable, readable)
    return text


def _cuts(phonemes: str) -> Iterator[tuple[int, int]]:
    """Where pieces of at most 400 phonemes begin and end; the blank between two is in neither."""
    start = 0
    while len(phonemes) - start > MAX_PHONEMES:
        end = _last_end(phonemes, start)
        yield start, end
        start = end + phonemes.startswith(" ", end)
    if start < len(phonemes):
        yield start, len(phonemes)


def _last_end(phonemes: str, start: int) -> int:
    """The last end of a clause that fits, else of a word, else as much as fits."""
    limit = start + MAX_PHONEMES
    for pattern in (_CLAUSE_END, _WORD_END):
        ends = [found.start() for found in pattern.finditer(phonemes, start + 1, limit + 1)]
        if ends:
            return ends[-1]
    return limit


def _sounds(symbol: str) -> bool:
    return symbol != BLANK and symbol not in PUNCTUATION


def _stressed(symbols: list[str]) -> list[bool]:
    return [
        symbol in VOWELS and number > 0 and symbols[number - 1] == PRIMARY_STRESS
        for number, symbol in enumerate(symbols)
    ]


def _written(words: list[str], spoken: list[tuple[str, int, int]]) -> Iterator[tuple[str, int, int]]:
    """The words as they are written, at the place of what is said for them.

    Where as many words are said as are written, they match one by one; elsewhere ("5 km", "five kilometers") those
    between two matches are one.
    """
    matcher = SequenceMatcher(
        None, [_bare(word) for word in words], [_bare(text) for text, *_ in spoken], autojunk=False
    )
    for _, first, last, start, end in matcher.get_opcodes():
        if last - first == end - start:
            for word, (_, begin, stop) in zip(words[first:last], spoken[start:end], strict=True):
                yield word, begin, stop
        elif first < last and start < end:
            yield " ".join(words[first:last]), spoken[start][1], spoken[end - 1][2]


def _bare(word: str) -> str:
    return _EDGES.sub("", word).lower()
