"""Which emotions a text tells of, by its words: `emotions.yaml`, those of directions, and VADER where they disagree.

VADER: C. J. Hutto and E. Gilbert, "VADER: a parsimonious rule-based model for sentiment analysis of social media text"
(ICWSM 2014). docs/directing.md says how well it does, and what it can't do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from dia_server.script.instructions import DEGREES, EMOTION_WEIGHT, NEGATIONS, VOCABULARY
from dia_server.tasks import EMOTIONS

CALM = tuple(float(name == "calm") for name in EMOTIONS)
NEGATIVE = ("angry", "sad", "afraid", "disgusted", "melancholic")

HINT = 0.5
EXCLAIMED = 1.2
IN_CAPITALS = 1.4
# What stands before a "but" is taken back, and so is what the tone of the whole contradicts.
TAKEN_BACK = 0.5
# "Not happy" is a little sad; of the other emotions one that is negated is not there, and that is all.
NOT_HAPPY = 0.5
# Below this VADER itself calls a text neutral.
TONE = 0.05
# IndexTTS2's list: its classifier can't tell the two apart, and takes sad for melancholic where one of these stands.
MELANCHOLIC = re.compile(r"\b(?:melancholy|melancholic|depression|depressed|gloomy)\b|\u4f4e\u843d")

_SENTENCE = re.compile("[^.!?\u2026\u3002\uff01\uff1f\\n]+[.!?\u2026\u3002\uff01\uff1f]*")
_CLAUSE_END = re.compile("[,;:\u2014\uff0c\uff1b\uff1a\u3001]")
_HAN = re.compile("[\u3400-\u9fff]")
# A negation doesn't reach further, in characters.
_REACH = 60
_ABBREVIATION = 3


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words of an emotion, parted by commas: those that say it, and those that go with it."""

    sure: str
    hint: str


class Vocabulary(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A language in `emotions.yaml`, which tells what is what."""

    reach: str
    negations: str
    affirmations: str
    contrasts: str
    emotions: dict[str, Words]


class Language(NamedTuple):
    """A vocabulary's patterns; those of the emotions have the groups `sure` and `hint`."""

    emotions: dict[str, re.Pattern[str]]
    degree: re.Pattern[str]
    negation: re.Pattern[str]
    affirmation: re.Pattern[str]
    contrast: re.Pattern[str]


def classify(text: str) -> tuple[float, ...]:
    """Weights from 0 to 1 in the order of `EMOTIONS`, 1 at most together; calm alone where nothing is found."""
    text = text.replace("\u2019", "'")
    found = [_scores(text, language) for language in _languages()]
    scores = max(found, key=lambda each: sum(each.values()))
    if scores is found[0]:
        _heed_tone(scores, text)
    if MELANCHOLIC.search(text.lower()):
        scores["melancholic"] += scores["sad"]
        scores["sad"] = 0.0
    weights = [min(1.0, EMOTION_WEIGHT * scores[name]) for name in EMOTIONS]
    total = sum(weights)
    return tuple(weight / max(1.0, total) for weight in weights) if total else CALM


def _scores(text: str, language: Language) -> dict[str, float]:
    """How much a text says of each emotion; a plain word is 1."""
    scores = dict.fromkeys(EMOTIONS, 0.0)
    can_shout = not text.isupper()
    for sentence in _SENTENCE.findall(text):
        exclaimed = EXCLAIMED if "!" in sentence or "\uff01" in sentence else 1.0
        *before, last = language.contrast.split(sentence)
        for said, weight in [*((part, TAKEN_BACK) for part in before), (last, 1.0)]:
            for clause in _CLAUSE_END.split(said):
                for emotion, strength in _cues(clause, language, can_shout=can_shout):
                    scores[emotion] += exclaimed * weight * strength
    return scores


def _cues(clause: str, language: Language, *, can_shout: bool) -> Iterator[tuple[str, float]]:
    for emotion, pattern in language.emotions.items():
        for cue in pattern.finditer(clause):
            before = clause[max(0, cue.start() - _REACH) : cue.start()]
            degree = language.degree.search(before)
            strength = HINT if cue["hint"] else 1.0
            # Letters such as a dotless i are of another case and yet the same to the pattern.
            strength *= _STRENGTHS.get(" ".join(degree[1].lower().split()), 1.0) if degree else 1.0
            if can_shout and cue[0].isupper() and len(cue[0]) > _ABBREVIATION:
                strength *= IN_CAPITALS
            negation = language.negation.search(before)
            if negation is None or language.affirmation.match(before, negation.start()):
                yield emotion, strength
            elif emotion == "happy":
                yield "sad", NOT_HAPPY * strength


def _heed_tone(scores: dict[str, float], text: str) -> None:
    """Where an English text is both happy and not, take half of the side back that its whole tone contradicts."""
    if not scores["happy"] or not any(scores[name] for name in NEGATIVE):
        return
    tone = _analyzer().polarity_scores(text)["compound"]
    for name in NEGATIVE if tone > TONE else ("happy",) if tone < -TONE else ():
        scores[name] *= TAKEN_BACK


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


_STRENGTHS = {word: strength for strength, words in DEGREES.items() for word in words}


@cache
def _languages() -> tuple[Language, ...]:
    """English first."""
    import yaml

    text = (resources.files("dia_server.script") / "emotions.yaml").read_text(encoding="utf-8")
    known = msgspec.convert(yaml.safe_load(text), dict[str, Vocabulary])
    return tuple(_language(vocabulary, is_english=code == "en") for code, vocabulary in known.items())


def _language(vocabulary: Vocabulary, *, is_english: bool) -> Language:
    emotions = {}
    for name in EMOTIONS:
        sure, hint = _split(vocabulary.emotions[name].sure), _split(vocabulary.emotions[name].hint)
        if is_english:
            # What directions call an emotion, texts do too; but most that is warm or gentle there is no emotion.
            sure, hint = (sure, hint + VOCABULARY[name]) if name == "calm" else (sure + VOCABULARY[name], hint)
        emotions[name] = _compiled(f"(?P<sure>{_any(sure)})|(?P<hint>{_any(hint)})")
    negations = _split(vocabulary.negations) + (NEGATIONS if is_english else ())
    return Language(
        emotions,
        degree=_compiled(rf"({_any(_STRENGTHS)})\s+(?:more\s+|too\s+)?$"),
        negation=_compiled(f"(?:{_any(negations)}){vocabulary.reach}$"),
        affirmation=_compiled(_any(_split(vocabulary.affirmations))),
        contrast=_compiled(_any(_split(vocabulary.contrasts))),
    )


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split(", "))


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _any(words: Iterable[str]) -> str:
    """A pattern of words as `emotions.yaml` writes them; where blanks part words, of whole ones."""
    ordered = sorted(words, key=len, reverse=True)
    alternatives = "|".join(map(_pattern, ordered))
    return f"(?:{alternatives})" if _HAN.match(ordered[0]) else rf"\b(?:{alternatives})"


def _pattern(word: str) -> str:
    body = re.escape(word).replace(r"\ \.\.\.\ ", r"(?:\s+\S+){0,3}\s+").replace(r"\ ", r"\s+").replace(r"\*", r"\w*")
    return rf"{body}\b" if word[-1].isalnum() and not _HAN.match(word) else body
