"""Whether what is spoken can be understood."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jiwer
import numpy as np

from benchmarks.common import Client, Note, Server, running_server, speech, table
from benchmarks.hearing import Listener, words_of
from benchmarks.texts import PASSAGES

TITLE = "Words understood"
MEASURED = (
    f"Word error rate of Whisper tiny.en on {len(PASSAGES)} passages of our own, "
    f"{sum(len(words_of(passage)) for passage in PASSAGES)} words, as the server speaks them: its voices, speeds, and "
    "instructions to the voice skylark; with the 95 % interval of a bootstrap over the passages."
)

PLAIN = "skylark"
SPEEDS = (0.5, 0.75, 1.5, 2.0)
INSTRUCTIONS = ("cheerful and quick", "in a whisper", "slowly and sadly", "angry", "like a narrator")
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)
SEED = 7


class Heard(NamedTuple):
    """What came of one passage: words of the text, and how many were replaced, left out and added."""

    words: int
    replaced: int
    left_out: int
    added: int

    @property
    def errors(self) -> int:
        """All of them."""
        return self.replaced + self.left_out + self.added


def run(note: Note) -> str:
    """Measure."""
    listener = Listener()
    rows = []
    started = time.monotonic()
    with running_server({}) as server:
        for name, fields in conditions(server).items():
            note(name)
            rows.append([name, *cells(hear(server, listener, fields))])
    taken = time.monotonic() - started
    head = ["Spoken", "Words", "Replaced", "Left out", "Added", "Word error rate", "95 % interval"]
    return f"{table(head, rows)}\n\nAll of it took {taken:.0f} s, {taken / len(rows):.0f} s for each line."


def conditions(server: Server) -> dict[str, Mapping[str, object]]:
    """Fields of a request by what they stand for; the voices are those that the server has."""
    voices = [voice["id"] for voice in json.loads(server.get("/voices"))["voices"]]
    named: Iterator[tuple[str, Mapping[str, object]]] = (
        *((f"voice {voice}", {"voice": voice}) for voice in sorted(voices, key=lambda voice: (voice != PLAIN, voice))),
        *((f"speed {speed:g}", {"speed": speed}) for speed in SPEEDS),
        *((f"“{text}”", {"instructions": text}) for text in INSTRUCTIONS),
    )
    return dict(named)


def hear(server: Server, listener: Listener, fields: Mapping[str, object]) -> list[Heard]:
    """Have all passages spoken, and listen."""
    client = Client(server.port)
    bodies = [speech(passage, "wav", **{"voice": PLAIN, "stream": False} | fields) for passage in PASSAGES]
    clips = [b"".join(client.speak(body)) for body in bodies]
    client.close()
    heard = listener.words_of_each(clips)
    return [compare(words_of(passage), words) for passage, words in zip(PASSAGES, heard, strict=True)]


def compare(said: list[str], heard: list[str]) -> Heard:
    """Count what differs."""
    counts = jiwer.process_words(" ".join(said), " ".join(heard))
    return Heard(len(said), counts.substitutions, counts.deletions, counts.insertions)


def cells(heard: list[Heard]) -> list[str]:
    """For the table."""
    words, *kinds = (sum(column) for column in zip(*heard, strict=True))
    low, high = interval(heard)
    return [f"{words}", *map(str, kinds), f"**{sum(kinds) / words:.1%}**", f"{low:.1%} to {high:.1%}"]


def interval(heard: list[Heard]) -> tuple[float, float]:
    """Between which rates 95 % lie when passages are drawn anew from these."""
    drawn = np.random.default_rng(SEED).integers(len(heard), size=(RESAMPLES, len(heard)))
    errors, words = np.array([passage.errors for passage in heard]), np.array([passage.words for passage in heard])
    low, high = np.percentile(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1), INTERVAL)
    return float(low), float(high)
