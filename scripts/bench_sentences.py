"""Measure sentence splitters on our own tricky cases: the numbers of docs/decisions/0002-sentence-splitting.md.

Run `pip install pysbd syntok nupunkt blingfire`, then `python scripts/bench_sentences.py [--misses NAME]`; splitters
that are not installed are left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

CASES = Path(__file__).parent / "data" / "sentences.txt"
TIMED_ROUNDS = 20
HOSTILE_CHARACTERS = 4096  # the longest text of a request, by default
HOSTILE_SECONDS = 20.0

# Everyday words that some abbreviation looks like, and ways to begin the next sentence.
LAST_WORDS = (
    "day", "life", "book", "code", "john", "hand", "bank", "sun", "no", "house", "home", "me", "you", "him", "way",
    "time", "back", "low", "miss", "art", "den", "man", "may", "law", "lab", "auto", "chest", "fish", "hall", "lead",
    "table", "water", "there", "London", "school", "done", "door", "cat", "fig", "fun",
)  # fmt: skip
FIRST_WORDS = (
    "We", "Birds", "Snow", "People", "Mary", "Every", "Maybe", "Then", "Why", "Let's", "Thanks", "Outside", "Dogs",
    "Later",
)  # fmt: skip

# Repeated behind "..[", where one library looks for a list of references and finds no end.
HOSTILE = ("a", ".", "'", '"', '"a. ', "(", "\n", "Dr. ", "a@b.", "1 ", "1.", "A. ", "!? ", "a\u0301")

Split = Callable[[str], list[str]]


class Case(NamedTuple):
    """A text, and how many of its visible characters stand before each boundary."""

    text: str
    required: frozenset[int]
    optional: frozenset[int]


class Splitter(NamedTuple):
    """A way to split; `load` gives the function, `module` is what its import costs."""

    name: str
    module: str
    load: Callable[[], Split]


class Score(NamedTuple):
    """What a splitter did on all cases: exact matches, F1 of the boundaries, cuts within sentences, cuts not made."""

    exact: float
    f1: float
    wrong: int
    missed: int
    failures: list[Case]


def visible(text: str) -> int:
    """How many characters of the text are not blank: a measure that trimming and joining don't change."""
    return sum(not character.isspace() for character in text)


def read_case(line: str) -> Case:
    """A line of the data file."""
    text, required, optional = "", set(), set()
    for character in line.replace("\\n", "\n"):
        if character == "|":
            required.add(visible(text))
        elif character == "¦":
            optional.add(visible(text))
        else:
            text += character
    return Case(text, frozenset(required), frozenset(optional))


def read_cases() -> list[Case]:
    """All cases of the data file."""
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return [read_case(line) for line in lines if line and not line.startswith("# ")]


def boundaries(pieces: list[str]) -> frozenset[int]:
    """Where the pieces meet; pieces without anything visible make no boundary."""
    ends, end = set(), 0
    for piece in pieces:
        if visible(piece):
            ends.add(end := end + visible(piece))
    return frozenset(ends - {end})


def everyday_cases() -> list[Case]:
    """Pairs of plain sentences, with every last word before every first one."""
    return [read_case(f"It is about the {last}. |{first} came too.") for last in LAST_WORDS for first in FIRST_WORDS]


def measure(split: Split, cases: list[Case]) -> Score:
    """The score of one splitter."""
    hits = wrong = missed = 0
    failures = []
    for case in cases:
        cuts = boundaries(split(case.text)) - case.optional
        hits += len(cuts & case.required)
        wrong += len(cuts - case.required)
        missed += len(case.required - cuts)
        if cuts != case.required:
            failures.append(case)
    return Score(1 - len(failures) / len(cases), 2 * hits / (2 * hits + wrong + missed), wrong, missed, failures)


def microseconds(split: Split, cases: list[Case]) -> float:
    """Mean time for one sentence."""
    started = time.perf_counter()
    for _ in range(TIMED_ROUNDS):
        for case in cases:
            split(case.text)
    seconds = (time.perf_counter() - started) / TIMED_ROUNDS
    return seconds / sum(len(case.required) + 1 for case in cases) * 1e6


def hostile_milliseconds(name: str) -> float:
    """The longest time for one hostile text of the usual limit, in a process of its own since some never end."""
    command = [sys.executable, __file__, "--hostile", name]
    try:
        return float(subprocess.check_output(command, timeout=HOSTILE_SECONDS))
    except subprocess.TimeoutExpired:
        return float("inf")


def time_hostile(split: Split) -> float:
    """The longest time for one hostile text, in milliseconds."""
    longest = 0.0
    for unit in HOSTILE:
        text = ("..[" + unit * HOSTILE_CHARACTERS)[:HOSTILE_CHARACTERS]
        started = time.perf_counter()
        split(text)
        longest = max(longest, time.perf_counter() - started)
    return longest * 1e3


def by_lines(split: Split) -> Split:
    """The same splitter, with every line feed a boundary, since a newline ends what a speaker says in one go."""
    return lambda text: [piece for line in text.split("\n") for piece in split(line) if visible(line)]


def import_milliseconds(module: str) -> float:
    """The cheapest of three imports, each in a fresh interpreter."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1e3)"
    return min(float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3))


def load_sentencex() -> Split:
    """Wikimedia's library (MIT)."""
    from sentencex import segment

    return lambda text: segment("en", text)


def load_pysbd() -> Split:
    """pySBD (MIT); a regular expression of its own hangs on some digits, so keep it away from strangers' texts."""
    from pysbd import Segmenter

    return Segmenter(language="en", clean=False).segment


def load_hibari() -> Split:
    """The embedded model's own splitter (Apache-2.0)."""
    from hibari import Hibari

    return Hibari.split_sentences


def load_syntok() -> Split:
    """syntok (MIT)."""
    from syntok.segmenter import process

    return lambda text: [
        "".join(token.spacing + token.value for token in sentence)
        for paragraph in process(text)
        for sentence in paragraph
    ]


def load_nupunkt() -> Split:
    """nupunkt (MIT)."""
    from nupunkt import sent_tokenize

    return lambda text: list(sent_tokenize(text))


def load_blingfire() -> Split:
    """BlingFire (MIT)."""
    from blingfire import text_to_sentences

    return lambda text: text_to_sentences(text).split("\n")


def load_own() -> Split:
    """What the server does."""
    from dia_server.script.sentences import split_sentences

    return lambda text: split_sentences(text, "en")


SPLITTERS = (
    Splitter("dia_server", "dia_server.script.sentences", load_own),
    Splitter("sentencex", "sentencex", load_sentencex),
    Splitter("pysbd", "pysbd", load_pysbd),
    Splitter("hibari", "hibari", load_hibari),
    Splitter("syntok", "syntok.segmenter", load_syntok),
    Splitter("nupunkt", "nupunkt", load_nupunkt),
    Splitter("blingfire", "blingfire", load_blingfire),
)


def main() -> None:
    """Print the table, and the failures of one splitter if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--misses", metavar="NAME", help="show the cases that this splitter got wrong")
    parser.add_argument("--hostile", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    splitters = [splitter for splitter in SPLITTERS if find_spec(splitter.module.partition(".")[0])]
    if arguments.hostile:
        print(time_hostile(next(splitter.load() for splitter in splitters if splitter.name == arguments.hostile)))
        return
    cases, everyday = read_cases(), everyday_cases()
    print(f"{len(cases)} cases with {sum(len(case.required) + 1 for case in cases)} sentences; ", end="")
    print(f"{len(everyday)} pairs of plain sentences\n")
    print("| splitter | exact | F1 | wrong cuts | missed cuts | plain pairs | µs a sentence | worst ms | import ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, module, load in splitters:
        split = load()
        score = measure(by_lines(split), cases)
        print(
            f"| {name} | {score.exact:.1%} | {score.f1:.3f} | {score.wrong} | {score.missed}"
            f" | {measure(split, everyday).exact:.1%} | {microseconds(split, cases):.1f}"
            f" | {hostile_milliseconds(name):.1f} | {import_milliseconds(module):.0f} |",
            flush=True,
        )
        if name == arguments.misses:
            print(*(f"    {case.text!r}\n      -> {split(case.text)}" for case in score.failures), sep="\n")


if __name__ == "__main__":
    main()
