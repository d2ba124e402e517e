"""What hibari-tts' own normaliser leaves unsaid, or reads as something else, put into words before it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import date

NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"

_ENDINGS = "com|org|net|edu|gov|io|ai|dev|app|info|eu|uk|de|fr|es|it|br|jp|cn|ca|au|js|py|txt|pdf|html|json|csv|zip|wav"
_ADDRESS_WORDS = {
    ".": " dot ", "@": " at ", "/": " slash ", "-": " dash ", "_": " underscore ", "?": " question mark ",
    "=": " equals ", "&": " and ", "#": " hash ", "%": " percent ", ":": " colon ", "+": " plus ", "~": " tilde ",
}  # fmt: skip
_DOLLARS = {
    "US": "US dollars", "A": "Australian dollars", "AU": "Australian dollars", "C": "Canadian dollars",
    "CA": "Canadian dollars", "NZ": "New Zealand dollars", "HK": "Hong Kong dollars", "R": "reais",
}  # fmt: skip
_CURRENCIES = {
    "USD": "US dollars", "EUR": "euros", "GBP": "pounds", "JPY": "yen", "CHF": "Swiss francs", "CNY": "yuan",
    "BRL": "reais", "kr": "kroner",
}  # fmt: skip
_LENGTHS = {
    "mm": "millimeters", "cm": "centimeters", "m": "meters", "km": "kilometers", "in": "inches", "ft": "feet",
    "mi": "miles",
}  # fmt: skip
_PERIODS = {"s": "second", "min": "minute", "h": "hour"}
_UNITS = {"V": "volts", "W": "watts", "A": "amperes", "m": "meters", "s": "seconds", "h": "hours", "µg": "micrograms"}
_ABBREVIATIONS = {
    "ca.": "circa", "c/o": "care of", "dept.": "department", "Dept.": "Department", "btw": "by the way",
    "a.k.a.": "also known as", "C#": "C sharp", "F#": "F sharp", ".NET": "dot net", "CO2": "C O 2", "CO₂": "C O 2",
    "24/7": "24 7",
}  # fmt: skip
_BEFORE_NUMBERS = {"min": "minimum", "max": "maximum", "p": "page", "est": "established"}
_SIGNS = {"℃": "°C", "℉": "°F", "№": "number ", "‰": " per mille", "≈": "about ", "≤": " at most ", "≥": " at least "}
_ROMAN = {"X": 10, "V": 5, "I": 1}
# Of emojis' Unicode names.
_SILENT = re.compile(r"\b(?:heavy|black|white|sign|symbol|with|variation selector-16)\b")

Found = re.Match[str]


def plain(text: str) -> str:
    """The text with addresses, telephone numbers and the like as they are said."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def _any(words: dict[str, str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _address(found: Found) -> str:
    words = found[0].partition("://")[2] or found[0]
    words = re.sub(r"^www(?=\.)", "W W W", words).rstrip("/")
    return "".join(_ADDRESS_WORDS.get(sign, sign) for sign in words)


def _dotted_date(found: Found) -> str:
    day, month, year = map(int, found.groups())
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return found[0]


def _digits(found: Found) -> str:
    """Digit by digit, with a rest between groups."""
    groups = [" ".join(group) for group in re.findall(r"\d+", found[0])]
    return ("plus " if found[0].startswith("+") else "") + ", ".join(groups)


def _vulgar(found: Found) -> str:
    whole, fraction = found[1], unicodedata.normalize("NFKC", found[2]).replace("\u2044", "/")
    return f"{whole} and {fraction}" if whole else fraction


def _mixed(found: Found) -> str:
    whole, part, of = found.groups()
    return f"{whole} and {part}/{of}" if int(part) < int(of) else found[0]


def _roman(found: Found) -> str:
    values = [_ROMAN[letter] for letter in found[1]]
    after = [*values[1:], 0]
    return str(sum(-value if value < later else value for value, later in zip(values, after, strict=True)))


def _emoji(found: Found) -> str:
    name = " ".join(_SILENT.sub("", unicodedata.name(found[0][0], "").lower()).split())
    return f" ({name}) " if name else ""


# In this order: what an earlier one has put into words, no later one takes for something else.
RULES: tuple[tuple[re.Pattern[str], str | Callable[[Found], str]], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"</?[A-Za-z][^<>]{0,80}>", " "),
        (rf"(?<![\w.])(?:{_any(_ABBREVIATIONS)})(?![\w/])", lambda found: _ABBREVIATIONS[found[0]]),
        (rf"\b({_any(_BEFORE_NUMBERS)})\. ?(?=\d)", lambda found: f"{_BEFORE_NUMBERS[found[1]]} "),
        (r"\bhttps?://[^\s<>\"']*[\w/]|\bwww\.[^\s<>\"']*[\w/]|[\w.+-]+@[\w-]+(?:\.[\w-]+)+", _address),
        (rf"\b[A-Za-z][\w-]*(?:\.[\w-]+)*\.(?:{_ENDINGS})\b(?:/[\w./-]*\w)?", _address),
        (r"\b(\d{1,2})\.(\d{1,2})\.(\d{4})\b", _dotted_date),
        (r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d(?::\d\d)?)Z?\b", r"\1, \2"),
        (r"\b(\d{1,2})\.(\d\d) ?([ap])\.?m\b", r"\1:\2 \3m"),
        (r"(?<![\w.])\+\d{1,3}(?:[ .-]?\(?\d{1,5}\)?){2,5}\b|\(\d{3}\) ?\d{3}[- ]\d{4}\b", _digits),
        (r"(?<![\w.-])(?!\d{4}-\d\d-\d\d\b)\d+(?:-\d+){2,}(?![\w.-]*\w)", _digits),
        (r"\bv(?=\d)", "version "),
        (r"\b\d+(?:\.\d+){2,}\b", lambda found: found[0].replace(".", " dot ")),
        (rf"\b({_any(_DOLLARS)})\$ ?({NUMBER})", lambda found: f"{found[2]} {_DOLLARS[found[1]]}"),
        (rf"({NUMBER}) ?({_any(_CURRENCIES)})\b", lambda found: f"{found[1]} {_CURRENCIES[found[2]]}"),
        (rf"(?<![$£€\d.,])({NUMBER}) ?([€£$])", r"\2\1"),
        (rf"([$£€]{NUMBER}) ?bn\b", r"\1 billion"),
        (r"(\d*) ?([¼-¾⅐-⅞])", _vulgar),
        (r"\b(\d+) (\d{1,2})/(\d{1,2})\b", _mixed),
        (r"\b(\d+)/(\d{3,})\b", r"\1 over \2"),
        (r"\b(\d+)['\u2032] ?(\d{1,2})[\"\u2033]", r"\1 feet \2"),
        (
            rf"({NUMBER}) ?({_any(_LENGTHS)})([²³])",
            lambda found: f"{found[1]} {'square' if found[3] == '²' else 'cubic'} {_LENGTHS[found[2]]}",
        ),
        (
            rf"({NUMBER}) ?({_any(_LENGTHS)})/({_any(_PERIODS)})\b",
            lambda found: f"{found[1]} {_LENGTHS[found[2]]} per {_PERIODS[found[3]]}",
        ),
        (rf"(?<![$£€\w.,])({NUMBER}) ({_any(_UNITS)})\b(?!['/])", lambda found: f"{found[1]} {_UNITS[found[2]]}"),
        (r"\b(\d+):1\b(?!\d)", r"\1 to 1"),
        (r"\b(\d+)x(?=\d)", r"\1 by "),
        (r"(?<![\w.,:/-])0\d+\b(?![.,:/-]\d)", _digits),
        (rf"(?:{_any(_SIGNS)})", lambda found: _SIGNS[found[0]]),
        (r"(?<=[a-z,] )((?=[XVI]{2})X{0,3}(?:IX|IV|V?I{0,3}))(?<=[XVI])\b(?!['\u2019.]\w)", _roman),
        ("[\u2600-\u27bf\U0001f300-\U0001faff]\ufe0f?", _emoji),
    )
)
