"""Whether a long text gets in the way of a short one."""

from __future__ import annotations

import random
import statistics
import time
from functools import partial
from typing import NamedTuple

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
    running_server,
    speech,
    table,
)
from benchmarks.replay import listening
from dia_server.bench import percentile

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
SEGMENTS_TIMED = 5
PROCESSES = (1, 2)

EXPLANATION = (
    f"The segment is the longest sentence of the long text, {len(SENTENCE)} characters, asked for alone. All three are "
    "measured in turns. With one worker the short text waits for the segment that is being spoken. With two it finds a "
    "free one, since read-ahead leaves a place: there the delay is that both texts share the machine's cores."
)


def run(note: Note) -> str:
    """Measure."""
    rows, goals = [], []
    for processes in PROCESSES:
        workers = f"{processes} worker{'s' if processes > 1 else ''}"
        with running_server(lanes("hibari", processes=processes)) as server:
            rounds = [one_round(server, f"{workers}, round {number + 1}", note) for number in range(ROUNDS)]
        segment = statistics.median(one.segment for one in rounds)
        alone, beside = ([seconds for one in rounds for seconds in one[side]] for side in (1, 2))
        for what, seconds in (("alone", alone), ("beside 400 words", beside)):
            rows.append([workers, what, ms(statistics.median(seconds)), ms(percentile(seconds, SHARE))])
        delay = percentile(beside, SHARE) - percentile(alone, SHARE)
        text = f"with {workers}, the first byte (p95) is delayed by at most one segment's time, here {ms(segment)}"
        goals.append(goal(text, ms(delay), met=delay <= segment))
    head = ["Server", "Short text", f"First byte, p50 of {ROUNDS * REQUESTS}", "p95"]
    return "\n\n".join([table(head, rows), *goals, EXPLANATION])


class Round(NamedTuple):
    """Seconds: of the long text's longest segment, and to the short text's first byte, alone and beside the long."""

    segment: float
    alone: list[float]
    beside: list[float]


def one_round(server: Server, name: str, note: Note) -> Round:
    """Measure each once."""
    note(f"{name} of {ROUNDS}")
    segment = median_seconds(partial(listen, server.port, speech(SENTENCE, "pcm")), SEGMENTS_TIMED)
    alone = first_bytes(server.port)
    with listening(server, LONG_BODY) as arrivals:
        time.sleep(SETTLE_SECONDS)
        before = len(arrivals)
        beside = first_bytes(server.port)
        if len(arrivals) == before:
            raise RuntimeError("the long text did not go on beside the short one")
    return Round(segment, alone, beside)


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
