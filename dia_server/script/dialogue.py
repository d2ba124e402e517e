"""From a text to a script: whose turn it is, which segments they speak, and where they pause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby

import msgspec

from dia_server.errors import BadInput, NothingToSpeak
from dia_server.script import pieces
from dia_server.script.sentences import cut, split_sentences
from dia_server.script.text import Dialogue, ReadingModel, check_language, clean, is_speakable

# Dia's list; other words in parentheses are text like any other.
NONVERBAL = (
    "laughs", "clears throat", "sighs", "gasps", "coughs", "singing", "sings", "mumbles", "beep", "groans", "sniffs",
    "claps", "screams", "inhales", "exhales", "applause", "burps", "humming", "sneezes", "chuckle", "whistles",
)  # fmt: skip

# Stands for a sound that the model can't make: about the time of a breath, long enough to be heard as a stop.
PAUSE_SECONDS = 0.3

_SHOWN_CHARACTERS = 40

# NUL can't be in a cleaned text, so it can stand where a pause goes.
_PAUSE = "\0"

_PAUSE_MARK = re.compile(r"\[pause: ?(\d{1,7}(?:\.\d{1,3})?|\.\d{1,3}) ?(ms|s)\]", re.IGNORECASE)
_ANY_PAUSE_MARK = re.compile(r"\[pause:[^\]]{0,40}\]", re.IGNORECASE)
_MILLISECONDS = 1000
_TURN_TAG = re.compile(r"\[[Ss]([12])\]")
_ANY_TURN_TAG = re.compile(r"\[[Ss][0-9]+\]")
_NONVERBAL_TAG = re.compile(rf"( ?)\( ?({'|'.join(NONVERBAL)}) ?\)([.,;:!?…]*)", re.IGNORECASE)


class Segment(msgspec.Struct, frozen=True):
    """A piece of a script that one task speaks.

    Attributes:
        text: for a model that reads dialogue, one turn or several, each behind its tag.
        speaker: `S1` or `S2`; in a dialogue, who speaks first.
    """

    text: str
    speaker: str


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Silence; an exact one was asked for by its length, and keeps it at any speed."""

    seconds: float
    is_exact: bool = False


Script = tuple[Segment | Pause, ...]
Cutter = Callable[[str], Iterator[str]]


def parse_script(
    text: str,
    *,
    primary_speaker: str,
    manifest: ReadingModel,
    segment_characters: int,
    max_pause_seconds: float,
    param: str,
) -> Script:
    """What a model has to say, in order; every pause but exact ones stands between two segments.

    Args:
        text: as the client sent it.
        primary_speaker: who says what stands before the first speaker tag.
        manifest: the model's; it decides about languages, non-verbal tags, and whether turns share a segment.
        segment_characters: no segment is longer, speaker tags aside.
        max_pause_seconds: all exact pauses together are no longer.
        param: what the client calls the text, for error messages.

    Raises:
        BadInput: a character that no text may hold, a language that the model doesn't read, too long pauses, or the tag
            of a third speaker.
        NothingToSpeak: the message says what there was instead of words.
    """
    text = clean(text, param)
    _check_marks(text, param)
    check_language(without_tags(text), manifest, param)
    script: list[Segment | Pause] = []
    dialogue = manifest.dialogue and _bounded(manifest.dialogue, segment_characters)
    cut_up: Cutter = partial(cut, characters=segment_characters)
    if dialogue:
        cut_up = partial(pieces.cut_to_fit, bounds=dialogue)
    for speaker, words in turns(text, primary_speaker):
        for item in _speak(words, speaker, manifest, cut_up):
            if not _is_breath(item) or (script and isinstance(script[-1], Segment)):
                script.append(item)
    if script and _is_breath(script[-1]):
        script.pop()
    if not any(isinstance(item, Segment) for item in script):
        raise NothingToSpeak(_what_there_was(text, manifest), param=param)
    _check_pauses(script, max_pause_seconds, param)
    return tuple(_joined(script, dialogue) if dialogue else script)


def turns(text: str, speaker: str) -> Iterator[tuple[str, str]]:
    """Who says what, in order; `speaker` says what stands before the first tag. Some may be empty."""
    untagged, *tagged = _TURN_TAG.split(text)
    yield speaker, untagged.strip()
    for number, words in zip(tagged[::2], tagged[1::2], strict=True):
        yield f"S{number}", words.strip()


def speakers(script: Script) -> set[str]:
    """All who say something."""
    segments = [item for item in script if isinstance(item, Segment)]
    return {who for segment in segments for who, words in turns(segment.text, segment.speaker) if words}


def _bounded(dialogue: Dialogue, characters: int) -> Dialogue:
    most = min(dialogue.most_characters, characters)
    return dialogue._replace(most_characters=most, fewest_characters=min(dialogue.fewest_characters, most))


def _joined(script: list[Segment | Pause], dialogue: Dialogue) -> Iterator[Segment | Pause]:
    """The script with turns and sentences joined to segments; every pause ends one."""
    for is_pause, items in groupby(script, key=lambda item: isinstance(item, Pause)):
        if is_pause:
            yield from items
            continue
        parts = [(item.speaker, item.text) for item in items if isinstance(item, Segment)]
        for piece in pieces.join(parts, dialogue):
            yield Segment(pieces.tagged(piece), piece[0][0])


def _check_marks(text: str, param: str) -> None:
    for mark in _ANY_PAUSE_MARK.finditer(text):
        if not _PAUSE_MARK.fullmatch(mark[0]):
            raise BadInput(f"'{mark[0]}' can't be read; write [pause:500ms] or [pause:1.5s]", param=param)
    for tag in _ANY_TURN_TAG.finditer(text):
        if not _TURN_TAG.fullmatch(tag[0]):
            raise BadInput(
                f"'{tag[0][:_SHOWN_CHARACTERS]}' is nobody's turn: a text has two speakers, [S1] and [S2]; give the "
                "line to one of them, send more speakers' lines in texts of their own, each with its voice, or leave "
                "the brackets out of what is to be read aloud",
                param=param,
            )


def _is_breath(item: Segment | Pause) -> bool:
    return isinstance(item, Pause) and not item.is_exact


def _check_pauses(script: list[Segment | Pause], max_pause_seconds: float, param: str) -> None:
    seconds = sum(item.seconds for item in script if isinstance(item, Pause) and item.is_exact)
    if seconds > max_pause_seconds:
        raise BadInput(
            f"The text asks for {seconds:g} s of silence by [pause:…], allowed are {max_pause_seconds:g} s in all; "
            "shorten them, or raise max_pause_seconds",
            param=param,
        )


def without_tags(text: str) -> str:
    """The words of a text, without turn and non-verbal tags and pause marks."""
    return _NONVERBAL_TAG.sub(" ", _TURN_TAG.sub(" ", _PAUSE_MARK.sub(" ", text)))


def _speak(words: str, speaker: str, model: ReadingModel, cut_up: Cutter) -> Iterator[Segment | Pause]:
    stretch, *marked = _PAUSE_MARK.split(words)
    yield from _speak_stretch(stretch, speaker, model, cut_up)
    for number, unit, stretch in zip(marked[::3], marked[1::3], marked[2::3], strict=True):
        yield Pause(float(number) / (_MILLISECONDS if unit.lower() == "ms" else 1), is_exact=True)
        yield from _speak_stretch(stretch, speaker, model, cut_up)


def _speak_stretch(words: str, speaker: str, model: ReadingModel, cut_up: Cutter) -> Iterator[Segment | Pause]:
    language = model.languages[0] if model.languages else "en"
    for number, stretch in enumerate(_NONVERBAL_TAG.sub(partial(_keep_or_pause, model), words).split(_PAUSE)):
        if number:
            yield Pause(PAUSE_SECONDS)
        for sentence in _merge_silent(split_sentences(stretch, language), model):
            for piece in cut_up(sentence):
                if is_speakable(piece, model.languages):
                    yield Segment(piece, speaker)


def _keep_or_pause(model: ReadingModel, tag: re.Match[str]) -> str:
    blank, name, punctuation = tag.groups()
    if name.lower() in model.nonverbal:
        return f"{blank}({name.lower()}){punctuation}"
    ends_here = tag.string[tag.start() - 1 : tag.start()].isalnum()
    return (punctuation if ends_here else "") + _PAUSE


def _merge_silent(sentences: list[str], model: ReadingModel) -> Iterator[str]:
    """The sentences, those without anything to say joined to the one before them, the first ones to the one behind."""
    held: list[str] = []
    has_words = False
    for sentence in sentences:
        if is_speakable(sentence, model.languages):
            if has_words:
                yield " ".join(held)
                held = []
            has_words = True
        held.append(sentence)
    if has_words:
        yield " ".join(held)


def _what_there_was(text: str, model: ReadingModel) -> str:
    found = []
    if tags := sorted({f"({tag[2].lower()})" for tag in _NONVERBAL_TAG.finditer(text)}):
        found.append(f"non-verbal tags that this model does not have: {', '.join(tags)}")
    if _TURN_TAG.search(text):
        found.append("speaker tags with no words behind them")
    if _PAUSE_MARK.search(text):
        found.append("pauses")
    if rest := without_tags(text).strip():
        found.append(f"characters that are not said aloud: {rest[:_SHOWN_CHARACTERS]}")
    return (
        f"There is nothing to speak for model '{model.name}'; add words or numbers. "
        f"Dropped: {'; '.join(found) or 'blanks and asterisks'}"
    )
