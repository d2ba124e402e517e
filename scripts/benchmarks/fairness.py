"""Whether a long text gets in the way of a short one."""

from __future__ import annotations

import random
import statistics
import time
from functools import partial

from benchmarks.common import (
    SIXTY_WORDS,
    TEN_WORDS,
    Client,
    Note,
    Server,
    goal,
    lanes,
    listen,
    median_seconds,
    ms,
    percentile,
    running_server,
    speech,
    table,
)
from benchmarks.replay import listening

TITLE = "Fairness"
MEASURED = (
    "The first byte of streamed wav (hibari, 10 words) for one client, alone and beside another that listens to 400 "
    "words of pcm again and again as fast as they are made."
)

LONG_BODY = speech(" ".join([SIXTY_WORDS] * 7), "pcm")
SENTENCE = max(SIXTY_WORDS.split(". "), key=len).rstrip(".") + "."
ROUNDS = 4
REQUESTS = 30
SHARE = 0.95
LONGEST_WAIT = 0.05
SETTLE_SECONDS = 0.5
SEGMENTS_TIMED = 15
PROCESSES = (1, 2)

EXPLANATION = (
    f"The segment is the longest sentence of the long text, {len(SENTENCE)} characters, asked for alone; alone and beside "
    "the long text in turns."
)


def run(note: Note) -> str:
    """Measure."""
    rows, goals = [], []
    for processes in PROCESSES:
        workers = f"{processes} worker{'s' if processes > 1 else ''}"
        with running_server(lanes("hibari", processes=processes)) as server:
            body = speech(SENTENCE, "pcm")
            segment = median_seconds(partial(listen, server.port, body), SEGMENTS_TIMED)
            alone, beside = in_turns(server, lambda text, workers=workers: note(f"{workers}, {text}"))
        for what, seconds in (("alone", alone), ("beside 400 words", beside)):
            rows.append([workers, what, ms(statistics.median(seconds)), ms(percentile(seconds, SHARE))])
        delay = percentile(beside, SHARE) - percentile(alone, SHARE)
        text = f"with {workers}, the first byte (p95) is delayed by at most one segment's time, here {ms(segment)}"
        goals.append(goal(text, ms(delay), met=delay <= segment))
    head = ["Server", "Short text", f"First byte, p50 of {ROUNDS * REQUESTS}", "p95"]
    return "\n\n".join([table(head, rows), *goals, EXPLANATION])


def in_turns(server: Server, note: Note) -> tuple[list[float], list[float]]:
    """Seconds until the first audio of the short text: alone, and beside the long one."""
    alone: list[float] = []
    beside: list[float] = []
    for number in range(ROUNDS):
        note(f"round {number + 1} of {ROUNDS}")
        alone += first_bytes(server.port)
        with listening(server, LONG_BODY) as arrivals:
            time.sleep(SETTLE_SECONDS)
            before = len(arrivals)
            beside += first_bytes(server.port)
            if len(arrivals) == before:
                raise RuntimeError("the long text did not go on beside the short one")
    return alone, beside


def first_bytes(port: int) -> list[float]:
    """Seconds until the first audio of the short text, asked for at random moments over one connection."""
    client, body = Client(port), speech(TEN_WORDS, "wav")
    moments = random.Random(7)  # noqa: S311 - moments, not secrets
    seconds = []
    for _ in range(REQUESTS + 1):
        time.sleep(moments.uniform(0, LONGEST_WAIT))
        seconds.append(client.first_byte(body))
    client.close()
    return seconds[1:]
