"""Whether the marks of words are where the words are."""

from __future__ import annotations

import base64
import io
import json
import statistics
import wave
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from benchmarks.common import SPEECH_RATE, Client, Note, ms, percentile, running_server, speech, table
from benchmarks.hearing import Listener, words_of
from benchmarks.texts import PASSAGES

TITLE = "Word marks"
MEASURED = (
    "How far the marks that the server sends (`stream_format: sse`, `timestamp_granularities: [word]`) are from the "
    "times at which Whisper tiny.en hears the words, for words that both have; Whisper's own times are rough, so this "
    "is what both are off together."
)

SPEEDS = (1.0, 1.5)
DATA = b"data: "


class Spoken(NamedTuple):
    """A clip, and what its marks say: words with the seconds where they start and end."""

    wav: bytes
    marks: list[dict[str, Any]]


class Edges(NamedTuple):
    """Words in order, and the seconds of an edge by the word's number; a mark over some words has its outer edges."""

    words: list[str]
    starts: dict[int, float]
    ends: dict[int, float]


def run(note: Note) -> str:
    """Measure."""
    listener = Listener()
    rows = []
    with running_server({}) as server:
        client = Client(server.port)
        for speed in SPEEDS:
            starts, ends = [], []
            words = aligned = 0
            for number, passage in enumerate(PASSAGES, start=1):
                note(f"speed {speed:g}, passage {number} of {len(PASSAGES)}")
                spoken = speak(client, passage, speed)
                said, heard = edges_of(spoken.marks), listener.timed_words(spoken.wav)
                pairs = align(said.words, [word.word for word in heard])
                starts += differences(said.starts, {i: heard[j].start for i, j in pairs})
                ends += differences(said.ends, {i: heard[j].end for i, j in pairs})
                words, aligned = words + len(said.words), aligned + len(pairs)
            found = f"{aligned} of {words} ({aligned / words:.1%})"
            rows += [[f"{speed:g}", what, found, *cells(apart)] for what, apart in (("starts", starts), ("ends", ends))]
        client.close()
    head = ["Speed", "Edge", "Words that both have", "Difference, p50", "p95", "Bias, p50"]
    return table(head, rows)


def speak(client: Client, text: str, speed: float) -> Spoken:
    """Get a clip and its marks."""
    fields = {"speed": speed, "stream_format": "sse", "timestamp_granularities": ["word"]}
    answer = b"".join(client.speak(speech(text, "pcm", **fields)))
    pcm, marks = b"", []
    for line in answer.splitlines():
        if line.startswith(DATA):
            event = json.loads(line.removeprefix(DATA))
            if "error" in event:
                raise RuntimeError(f"the stream ended with {event['error']}")
            if event["type"] == "speech.audio.delta":
                pcm += base64.b64decode(event["audio"])
            elif event["type"] == "speech.audio.words":
                marks += event["words"]
    if not marks:
        raise RuntimeError("the stream brought no marks of words")
    return Spoken(wav_of(pcm), marks)


def wav_of(pcm: bytes) -> bytes:
    """A wav file of mono 16-bit samples."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, SPEECH_RATE, 0, "NONE", ""))
        file.writeframes(pcm)
    return data.getvalue()


def edges_of(marks: list[dict[str, Any]]) -> Edges:
    """The words of the marks, normalised."""
    edges = Edges([], {}, {})
    for mark in marks:
        words = words_of(mark["word"])
        if words:
            edges.starts[len(edges.words)] = mark["start"]
            edges.words.extend(words)
            edges.ends[len(edges.words) - 1] = mark["end"]
    return edges


def align(said: list[str], heard: list[str]) -> list[tuple[int, int]]:
    """Numbers of words that are the same in both, in order."""
    blocks = SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    return [(block.a + offset, block.b + offset) for block in blocks for offset in range(block.size)]


def differences(said: dict[int, float], heard: dict[int, float]) -> list[float]:
    """Seconds from what was heard to the mark, for edges that both have."""
    return [said[number] - heard[number] for number in said.keys() & heard.keys()]


def cells(apart: list[float]) -> list[str]:
    """For the table."""
    sizes = [abs(seconds) for seconds in apart]
    return [ms(statistics.median(sizes)), ms(percentile(sizes, 0.95)), ms(statistics.median(apart))]
