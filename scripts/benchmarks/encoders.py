"""What the formats cost, and whether encoding holds the event loop up."""

from __future__ import annotations

import os
import re
import time
from functools import partial

from benchmarks.common import (
    FLOAT_BYTES,
    SIXTY_WORDS,
    SPEECH_RATE,
    Note,
    Server,
    cores,
    lanes,
    load_of,
    median_seconds,
    ms,
    pin,
    running_server,
    speech,
    table,
    under_load,
)
from benchmarks.overhead import speak
from dia_server.audio.encode import FORMATS
from dia_server.audio.pipeline import ClipRenderer
from dia_server.bench import percentile
from dia_server.models.registry import load_engine

TITLE = "Encoders and the event loop"
MEASURED = (
    "What each format costs on one core for some speech of hibari, fed as the server feeds it; then how late "
    "the event loop is with 64 mp3 clients of hibari, by the server's own histogram, and how fast `/health` answers."
)

PIECE_SECONDS = 0.5
REPEATS = 5
CLIENTS = 64
LOAD_SECONDS = 15.0
IDLE_SECONDS = 5.0
POLL_SECONDS = 0.05
LAG_BUCKET = re.compile(r'^dia_event_loop_lag_seconds_bucket\{le="(.+)"\} (.+)$', re.MULTILINE)


def run(note: Note) -> str:
    """Measure."""
    note("formats")
    costs = format_costs()
    with running_server(lanes("hibari", processes=2)) as server:
        note("idle loop")
        rows = [["idle", *loop_lag(server, IDLE_SECONDS)]]
        note("loop under load")
        body = speech(SIXTY_WORDS, "mp3")
        with under_load(server.port, body, clients=CLIENTS, seconds=LOAD_SECONDS + 1) as process:
            rows.append([f"{CLIENTS} mp3 clients", *loop_lag(server, LOAD_SECONDS)])
            load_of(process)
    head = ["Server", "Loop late, p50", "p99", "`/health`, p50", "p99"]
    return f"{costs}\n\n{table(head, rows)}"


def format_costs() -> str:
    """The table of formats."""
    pcm = b"".join(audio.pcm for audio in speak(load_engine("hibari", 1, {}), SIXTY_WORDS))
    clip_seconds = len(pcm) / FLOAT_BYTES / SPEECH_RATE
    usable = cores()
    pin(os.getpid(), usable[:1])
    rows = []
    for audio_format, speed in (*((name, 1.0) for name in FORMATS), ("wav", 1.5)):
        name = audio_format if speed == 1 else f"{audio_format} at speed {speed}"
        seconds = median_seconds(partial(render, pcm, audio_format, speed), REPEATS)
        rows.append([name, f"{clip_seconds / seconds:,.0f}", f"{seconds / clip_seconds * 1e3:.2f} ms"])
    pin(os.getpid(), usable)
    return table(["Format", "Times real time", "Per second of audio"], rows)


def render(pcm: bytes, audio_format: str, speed: float) -> None:
    """Encode a clip piece by piece."""
    renderer = ClipRenderer(SPEECH_RATE, speed, audio_format)
    piece = round(PIECE_SECONDS * SPEECH_RATE) * FLOAT_BYTES
    for start in range(0, len(pcm), piece):
        renderer.feed(pcm[start : start + piece])
    renderer.finish()


def loop_lag(server: Server, seconds: float) -> list[str]:
    """Cells: how late the loop's timer was, as upper bounds, and how long `/health` took."""
    before = lag_counts(server)
    answers = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        started = time.perf_counter()
        server.get("/health")
        answers.append(time.perf_counter() - started)
        time.sleep(POLL_SECONDS)
    counts = {bound: count - before[bound] for bound, count in lag_counts(server).items()}
    late = [f"< {ms(bucket_of(counts, share))}" for share in (0.5, 0.99)]
    return [*late, ms(percentile(answers, 0.5)), ms(percentile(answers, 0.99))]


def lag_counts(server: Server) -> dict[float, float]:
    """The histogram: how often the loop's timer was late by at most so many seconds."""
    return {float(bound): float(count) for bound, count in LAG_BUCKET.findall(server.get("/metrics"))}


def bucket_of(counts: dict[float, float], share: float) -> float:
    """The upper bound of the bucket below which `share` of the observations lie."""
    total = max(counts.values())
    return next(bound for bound, count in sorted(counts.items()) if count >= share * total)
