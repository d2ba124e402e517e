"""From words such as "cheerful and a bit slower" to a `Delivery`: a small, fixed vocabulary; what it lacks is left out.

docs/directing.md lists the vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from dia_server.tasks import EMOTIONS, Delivery

# What a plain word means; "very" and "slightly" scale it.
EMOTION_WEIGHT = 0.7
PACE = 1.2
PITCH_SEMITONES = 3.0
VOLUME_DB = 5.0

DEGREES = {
    1.4: ("very", "extremely", "really", "super", "highly", "deeply", "incredibly", "much"),
    0.5: ("slightly", "somewhat", "a bit", "a little", "mildly", "a touch"),
}
# A word after one of these counts nothing, up to the next comma, full stop or "but".
NEGATIONS = ("not", "never", "no", "without", "avoid", "hardly", "neither", "nor", "don't", "shouldn't", "isn't")

# Each family of words by what it sets: an emotion or style by its name, or a quantity with its sign.
VOCABULARY: dict[str, tuple[str, ...]] = {
    "happy": (
        "happy", "happily", "cheerful", "cheerfully", "cheery", "joyful", "joyfully", "joy", "delighted", "excited",
        "excitedly", "enthusiastic", "enthusiasm", "upbeat", "lively", "playful", "merry", "glad", "smiling", "bubbly",
    ),
    "angry": (
        "angry", "angrily", "anger", "furious", "furiously", "irritated", "annoyed", "outraged", "hostile", "fierce",
        "aggressive", "stern", "mad",
    ),
    "sad": ("sad", "sadly", "sadness", "sorrowful", "mournful", "tearful", "grieving", "heartbroken", "crying"),
    "afraid": (
        "afraid", "scared", "fearful", "fear", "frightened", "terrified", "anxious", "anxiously", "nervous",
        "nervously", "worried", "panicked",
    ),
    "disgusted": ("disgusted", "disgust", "revolted", "repulsed", "appalled"),
    "melancholic": (
        "melancholic", "melancholy", "gloomy", "wistful", "depressed", "somber", "sombre", "weary", "resigned",
        "bored", "tired",
    ),
    "surprised": ("surprised", "surprise", "astonished", "amazed", "shocked", "startled", "in awe"),
    "calm": (
        "calm", "calmly", "calming", "relaxed", "soothing", "serene", "peaceful", "gentle", "gently", "warm",
        "warmly", "reassuring", "tender",
    ),
    "faster": ("quick", "quickly", "quicker", "fast", "faster", "rapid", "rapidly", "brisk", "hurried", "in a hurry"),
    "slower": ("slow", "slowly", "slower", "slow down", "unhurried", "leisurely", "take your time", "measured pace"),
    "higher": ("high-pitched", "high pitched", "high voice", "higher", "high pitch", "squeaky"),
    "lower": ("deep", "deep voice", "deeper", "low-pitched", "low pitched", "low voice", "lower", "low pitch"),
    "louder": ("loud", "loudly", "louder", "shout", "shouting", "shouted", "yelling", "booming"),
    "softer": ("soft", "softly", "softer", "quiet", "quietly", "quieter", "hushed", "subdued"),
    "whisper": ("whisper", "whispers", "whispering", "whispered", "whispery", "under your breath"),
    "narration": (
        "narrate", "narrator", "narration", "narrating", "storyteller", "storytelling", "audiobook", "bedtime story",
    ),
    "monotone": ("monotone", "monotonous", "robotic", "deadpan", "flat", "emotionless"),
    "news": ("news", "newsreader", "newscaster", "announcer", "broadcaster", "documentary"),
}  # fmt: skip

STYLES = ("whisper", "narration", "monotone", "news")


def _alternatives(words: Iterator[str]) -> str:
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in sorted(words, key=len, reverse=True))


_MEANINGS = {word: meaning for meaning, words in VOCABULARY.items() for word in words}
_STRENGTHS = {word: strength for strength, words in DEGREES.items() for word in words}
_PHRASE = re.compile(
    rf"(?:\b(?P<degree>{_alternatives(iter(_STRENGTHS))})\s+(?:more\s+|too\s+)?)?"
    rf"\b(?P<word>{_alternatives(iter(_MEANINGS))})\b"
)
_NEGATION = re.compile(rf"\b(?:{_alternatives(iter(NEGATIONS))})\b")
_CLAUSE_END = re.compile(r"[,.;:!?]|\bbut\b")


class Direction(msgspec.Struct, frozen=True):
    """What instructions mean: a delivery, and the terms that were understood, such as `happy 0.7` or `faster 1`."""

    delivery: Delivery
    understood: tuple[str, ...]


def understand(instructions: str) -> Direction:
    """Read instructions; of two degrees of a word and of two styles, the later one counts."""
    strengths: dict[str, float] = {}
    for meaning, strength in _meanings(instructions.lower().replace("\u2019", "'")):
        for earlier in STYLES if meaning in STYLES else (meaning,):
            strengths.pop(earlier, None)
        strengths[meaning] = strength
    delivery = Delivery(
        speed=PACE ** (strengths.get("faster", 0) - strengths.get("slower", 0)),
        pitch=PITCH_SEMITONES * (strengths.get("higher", 0) - strengths.get("lower", 0)),
        volume=VOLUME_DB * (strengths.get("louder", 0) - strengths.get("softer", 0)),
        emotion=_emotion(strengths),
        style=next((style for style in STYLES if style in strengths), "neutral"),
    )
    return Direction(delivery, tuple(f"{meaning} {strength:g}" for meaning, strength in strengths.items()))


def _meanings(text: str) -> Iterator[tuple[str, float]]:
    for clause in _CLAUSE_END.split(text):
        negation = _NEGATION.search(clause)
        for phrase in _PHRASE.finditer(clause, 0, negation.start() if negation else len(clause)):
            degree = " ".join((phrase["degree"] or "").split())
            yield _MEANINGS[" ".join(phrase["word"].split())], _STRENGTHS.get(degree, 1.0)


def _emotion(strengths: dict[str, float]) -> tuple[float, ...]:
    """Weights whose sum is 1 at most, or nothing."""
    weights = [min(1.0, EMOTION_WEIGHT * strengths.get(name, 0)) for name in EMOTIONS]
    total = sum(weights)
    return tuple(weight / max(1.0, total) for weight in weights) if total else ()


def of_style(style: str) -> Delivery:
    """The delivery of a voice's `style`: an emotion, one of `STYLES`, or any other string for neutral."""
    if style in EMOTIONS:
        return Delivery(emotion=tuple(EMOTION_WEIGHT if name == style else 0.0 for name in EMOTIONS))
    return Delivery(style=style if style in STYLES else "neutral")
