"""Text as clients send it: what is refused, what is tidied away, and whether a model can read it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple, Protocol

from dia_server.errors import BadInput


class Language(NamedTuple):
    """A language's name for messages, and how the Unicode names of its letters begin."""

    name: str
    letters: str


class Dialogue(NamedTuple):
    """The pieces that a model wants that reads the turns of several speakers at once.

    Attributes:
        fewest_characters: shorter pieces are joined with their neighbours where they fit.
        most_characters: without speaker tags.
        most_bytes: in UTF-8, with speaker tags; what stands before a piece may have as many.
    """

    fewest_characters: int
    most_characters: int
    most_bytes: int


LANGUAGES = {"en": Language("English", "LATIN")}

# Symbols that are said as words ("percent", "plus") by the models that we have; other symbols and emoji are silent.
SPOKEN_SYMBOLS = frozenset("#%&/@§¶¢^+<=>~±\u00d7÷→©°")

_REFUSED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LINE_END = re.compile("\r\n?|[\u2028\u2029]")
_LINE_BREAK_HINT = re.compile("[\u00ad\u2060\ufeff]")
_TIMES = re.compile(r"(?<=\d)( ?)\*( ?)(?=\d)")
_BLANKS = re.compile(r"[^\S\n]+")
_LINE_GAP = re.compile(r" ?\n[ \n]*")
# Four marks are more than any language stacks. The bound matters: `normalize` takes quadratic time in a run of marks.
_MARKED_LETTER = re.compile("[^\\W\\d_][\u0300-\u036f]{1,4}")


class ReadingModel(Protocol):
    """What a script depends on of a model; the models' manifests have it all."""

    @property
    def name(self) -> str: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def nonverbal(self) -> frozenset[str]: ...
    @property
    def dialogue(self) -> Dialogue | None: ...


def clean(text: str, param: str) -> str:
    r"""The text with emphasis, repeated blanks and invisible hints gone; `\n` ends lines, and U+0020 is the only blank.

    Raises:
        BadInput: a control character or half a surrogate pair; the message names it and its place.
    """
    if refused := _REFUSED.search(text):
        raise BadInput(_refusal(refused), param=param)
    text = _LINE_BREAK_HINT.sub("", _LINE_END.sub("\n", text))
    text = _MARKED_LETTER.sub(lambda found: unicodedata.normalize("NFC", found[0]), text)
    text = _BLANKS.sub(" ", text)
    text = _TIMES.sub("\\1\u00d7\\2", text).replace("*", "")
    return _LINE_GAP.sub("\n", _BLANKS.sub(" ", text)).strip()


def _refusal(refused: re.Match[str]) -> str:
    code = ord(refused[0])
    kind = "half of a surrogate pair" if 0xD800 <= code <= 0xDFFF else "a control character"  # noqa: PLR2004
    return (
        f"Character {refused.start() + 1} of the text, U+{code:04X}, is {kind}; "
        "remove it (tab, line feed and carriage return are allowed)"
    )


def check_language(text: str, model: ReadingModel, param: str) -> None:
    """Let text pass of which at least half the letters belong to the model's languages; without letters it passes.

    Raises:
        BadInput: the message names the model and its languages.
    """
    letters = {letter: count for letter, count in Counter(text).items() if letter.isalpha()}
    readable = sum(count for letter, count in letters.items() if is_speakable(letter, model.languages))
    if 2 * readable < sum(letters.values()):
        names = ", ".join(f"{LANGUAGES[code].name} ({code})" for code in model.languages)
        raise BadInput(
            f"Model '{model.name}' reads {names}, and most letters of the text belong to other languages; "
            "send text in its language, or choose another model",
            param=param,
        )


def is_speakable(text: str, languages: tuple[str, ...]) -> bool:
    """Whether there is anything to say: a letter of one of the languages, a number, or a symbol that has a name.

    Without languages, or with one that `LANGUAGES` lacks, every letter counts.
    """
    return any(_is_speakable(character, languages) for character in text)


@lru_cache(maxsize=4096)
def _is_speakable(character: str, languages: tuple[str, ...]) -> bool:
    # Compatibility forms: styled and wide letters read like plain ones, "℡" like "TEL".
    plain = unicodedata.normalize("NFKC", character)
    if character.isalpha():
        name = unicodedata.name(plain[0], "")
        return not languages or any(
            code not in LANGUAGES or name.startswith(LANGUAGES[code].letters) for code in languages
        )
    return any(part.isalnum() or part in SPOKEN_SYMBOLS for part in plain)
