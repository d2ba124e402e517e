"""Whether the marks of words are where the words are."""

from __future__ import annotations

import base64
import io
import json
import statistics
import wave
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import SPEECH_RATE, Client, Note, ms, running_server, speech, table
from benchmarks.hearing import HeardWord, Listener, read_wav, words_of
from benchmarks.texts import PASSAGES
from dia_server.bench import percentile

TITLE = "Word marks"
MEASURED = (
    "How far the marks of words that the server sends (`stream_format: sse`, `timestamp_granularities: [word]`) are "
    "from the times at which Whisper tiny.en hears the same words; its own times are rough, so this is what both are "
    "off together."
)

SPEEDS = (1.0, 1.5)
DATA = b"data: "
PAUSE_SECONDS = 0.1
FRAME_SECONDS = 0.01
SILENCE = 0.003  # 50 dB below full scale, 30 dB below the speech
KINDS = START, END, START_AFTER_PAUSE, END_BEFORE_PAUSE = (
    "start",
    "end",
    "start after a pause",
    "end before a pause",
)

EXPLANATION = (
    "A positive sign is a mark that comes late. Whisper counts some of a pause to the words beside it, so there, and "
    "at both ends of a clip, the sound itself tells: where it is 50 dB below full scale for a tenth of a second."
)


class Spoken(NamedTuple):
    """A clip, and what its marks say: words with the seconds where they start and end."""

    wav: bytes
    marks: list[dict[str, Any]]


class Edges(NamedTuple):
    """Words in order, and the seconds of an edge by the word's number; a mark over some words has its outer edges.

    Attributes:
        words: normalised.
        starts: where words start, if no pause comes before them.
        ends: where words end, if no pause follows.
        pauses: where marks leave room, as seconds from and to; the first and the last one reach to the clip's ends.
    """

    words: list[str]
    starts: dict[int, float]
    ends: dict[int, float]
    pauses: list[tuple[float, float]]


def run(note: Note) -> str:
    """Measure."""
    listener = Listener()
    rows = []
    with running_server({}) as server:
        client = Client(server.port)
        for speed in SPEEDS:
            apart: dict[str, list[float]] = {kind: [] for kind in KINDS}
            words = aligned = 0
            for number, passage in enumerate(PASSAGES, start=1):
                note(f"speed {speed:g}, passage {number} of {len(PASSAGES)}")
                spoken = speak(client, passage, speed)
                said, heard = edges_of(spoken.marks), listener.timed_words(spoken.wav)
                pairs = align(said.words, [word.word for word in heard])
                words, aligned = words + len(said.words), aligned + len(pairs)
                for kind, seconds in (*by_whisper(said, heard, pairs), *by_loudness(said, silences(spoken.wav))):
                    apart[kind].append(seconds)
            found = f"{aligned} of {words} ({aligned / words:.1%})"
            rows += [[f"{speed:g}", found, kind, len(seconds), *cells(seconds)] for kind, seconds in apart.items()]
        client.close()
    head = ["Speed", "Words that both have", "Edge", "Of", "Difference, p50", "p95", "With its sign, p50"]
    return f"{table(head, rows)}\n\n{EXPLANATION}"


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
    edges = Edges([], {}, {}, [])
    ended = 0.0
    for mark in marks:
        words = words_of(mark["word"])
        if not words:
            continue
        number = len(edges.words)
        if not number or mark["start"] - ended > PAUSE_SECONDS:
            edges.pauses.append((ended, mark["start"]))
            edges.ends.pop(number - 1, None)
        else:
            edges.starts[number] = mark["start"]
        edges.words.extend(words)
        edges.ends[len(edges.words) - 1] = ended = mark["end"]
    edges.ends.pop(len(edges.words) - 1, None)
    edges.pauses.append((ended, float("inf")))
    return edges


def silences(wav: bytes) -> list[tuple[float, float]]:
    """Where a clip is silent for long enough to be a pause, as seconds from and to; and before and behind all sound."""
    samples, rate = read_wav(wav)
    size = round(FRAME_SECONDS * rate)
    levels = np.sqrt(np.mean(samples[: len(samples) // size * size].reshape(-1, size) ** 2, axis=1))
    loud = np.flatnonzero(levels > SILENCE) * FRAME_SECONDS
    inner = [(a + FRAME_SECONDS, b) for a, b in pairwise(loud.tolist()) if b - a > PAUSE_SECONDS]
    return [(0.0, float(loud[0])), *inner, (float(loud[-1]) + FRAME_SECONDS, float("inf"))]


def align(said: list[str], heard: list[str]) -> list[tuple[int, int]]:
    """Numbers of words that are the same in both, in order."""
    blocks = SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
    return [(block.a + offset, block.b + offset) for block in blocks for offset in range(block.size)]


def by_whisper(said: Edges, heard: list[HeardWord], pairs: list[tuple[int, int]]) -> Iterator[tuple[str, float]]:
    """For edges between two words: their kind, and the seconds from what Whisper heard to the mark."""
    for ours, theirs in pairs:
        if ours in said.starts:
            yield START, said.starts[ours] - heard[theirs].start
        if ours in said.ends:
            yield END, said.ends[ours] - heard[theirs].end


def by_loudness(said: Edges, silent: list[tuple[float, float]]) -> Iterator[tuple[str, float]]:
    """For edges beside a pause: their kind, and the seconds from where the sound stops or begins to the mark."""
    last = len(said.pauses) - 1
    for number, (start, end) in enumerate(said.pauses):
        silence = max(silent, key=lambda one: min(end, one[1]) - max(start, one[0]))
        if min(end, silence[1]) > max(start, silence[0]):
            if number != last:
                yield START_AFTER_PAUSE, end - silence[1]
            if number:
                yield END_BEFORE_PAUSE, start - silence[0]


def cells(apart: list[float]) -> list[str]:
    """For the table."""
    sizes = [abs(seconds) for seconds in apart]
    return [ms(statistics.median(sizes)), ms(percentile(sizes, 0.95)), ms(statistics.median(apart))]
