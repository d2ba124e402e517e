"""What the server adds to the model."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from benchmarks.common import (
    FLOAT_BYTES,
    PCM_BYTES_PER_SECOND,
    SIXTY_WORDS,
    SPEECH_RATE,
    TEN_WORDS,
    Client,
    Note,
    Server,
    cores,
    goal,
    lanes,
    listen,
    ms,
    pin,
    running_server,
    speech,
    table,
)
from dia_server.models.protocol import Engine
from dia_server.models.registry import load_engine
from dia_server.tasks import Audio, Marks, Speak

TITLE = "Overhead"
MEASURED = (
    "What the server adds to hibari: time to the first byte of streamed audio on a keep-alive connection, next to the "
    "same engine saying the text's first sentence inside the measuring process; and the audio that one worker makes a "
    "second, next to the same engine saying the whole text; each in turns."
)

PAIRS = 40
WARM_UP = 15
ROUNDS = 5
CLIENTS = 4
CLIPS = 12
GOAL_SECONDS = 0.003
GOAL_SHARE = 0.9


def run(note: Note) -> str:
    """Measure."""
    engine = load_engine("hibari", 1, {})
    with running_server(lanes("hibari", processes=1)) as server:
        note("first byte")
        first, worst = first_bytes(server, engine)
        note("throughput")
        share, through = throughput(server, engine)
    return "\n\n".join(
        [
            first,
            goal("first byte less than 3 ms after the engine's", f"{ms(worst)} at most", met=worst < GOAL_SECONDS),
            through,
            goal("one worker makes 90 % of what the engine makes", f"{share:.1%}", met=share >= GOAL_SHARE),
        ]
    )


def speak(engine: Engine, text: str) -> Iterator[Audio]:
    """All audio of a text, by the engine alone."""
    engine.admit(1, Speak(model="hibari", text=text, seed=7))
    while True:
        for _, event in engine.step():
            if isinstance(event, Audio):
                yield event
            elif not isinstance(event, Marks):
                return


def first_event(engine: Engine, text: str) -> float:
    """Seconds until the engine's first audio."""
    started = time.perf_counter()
    next(speak(engine, text))
    seconds = time.perf_counter() - started
    engine.cancel(1)
    return seconds


def first_bytes(server: Server, engine: Engine) -> tuple[str, float]:
    """The table, and the largest median difference."""
    client = Client(server.port)
    rows, differences = [], []
    for words, text in (("10 words", TEN_WORDS), ("60 words", SIXTY_WORDS)):
        sentence = text.split(". ")[0].rstrip(".") + "."  # the server's first task, too
        for audio_format in ("wav", "pcm"):
            body = speech(text, audio_format)
            pairs = [(first_event(engine, sentence), client.first_byte(body)) for _ in range(WARM_UP + PAIRS)][WARM_UP:]
            inside, outside = (statistics.median(side) for side in zip(*pairs, strict=True))
            added = statistics.median(b - a for a, b in pairs)
            differences.append(added)
            rows.append([words, audio_format, ms(inside), ms(outside), f"**{ms(added)}**"])
    client.close()
    head = ["Text", "Format", "First audio, engine", "First byte, HTTP", f"Difference (median of {PAIRS} pairs)"]
    return table(head, rows), max(differences)


def throughput(server: Server, engine: Engine) -> tuple[float, str]:
    """The server's share of the engine's pace, and the table."""
    usable = cores()
    ours, others = usable[:1], usable[1:] or usable[:1]
    pin(server.pid, others)
    pin(server.workers()[0]["pid"], ours)
    paces = []
    for _ in range(ROUNDS):
        pin(os.getpid(), others)
        over_http = pace_of_server(server)
        pin(os.getpid(), ours)
        paces.append((pace_of_engine(engine), over_http))
    pin(os.getpid(), usable)
    inside, outside = (statistics.median(side) for side in zip(*paces, strict=True))
    share = statistics.median(b / a for a, b in paces)
    where = "pinned to one core" if usable else "not pinned, since this system can't"
    head = [f"Audio seconds per second, {where}", f"Median of {ROUNDS}"]
    rows = [
        ["engine in process", f"{inside:.1f}"],
        [f"server, one worker, {CLIENTS} clients, pcm", f"{outside:.1f}"],
        ["share", f"**{share:.1%}**"],
    ]
    return share, table(head, rows)


def pace_of_server(server: Server) -> float:
    """Audio seconds per second that some clients get."""
    started = time.perf_counter()
    size = listen(server.port, speech(SIXTY_WORDS, "pcm"), clients=CLIENTS, clips=CLIPS)
    return size / PCM_BYTES_PER_SECOND / (time.perf_counter() - started)


def pace_of_engine(engine: Engine) -> float:
    """Audio seconds per second that the engine makes alone."""
    started = time.perf_counter()
    size = sum(len(audio.pcm) for _ in range(CLIPS) for audio in speak(engine, SIXTY_WORDS))
    return size / (FLOAT_BYTES * SPEECH_RATE) / (time.perf_counter() - started)
