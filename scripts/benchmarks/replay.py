"""The gap that a listener hears when a worker dies."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from benchmarks.common import (
    LONG_TEXT,
    Client,
    Note,
    Server,
    goal,
    lanes,
    ms,
    percentile,
    running_server,
    speech,
    table,
)

TITLE = "Replay"
MEASURED = (
    "The longest silence on the wire around a worker's death: one listener reads pcm as fast as it is made, two worker "
    "processes (one is spare), the busy one gets SIGKILL at a random moment once both are up; next to it, the longest "
    "silence in as long a time just before."
)

KILLS = 60
WINDOW_SECONDS = 0.5
LONGEST_WAIT = 0.3
GOAL_SECONDS = 0.15
# 20 times real time, in events of 0.1 s, without a core being busy: what is made again takes as long as it took.
PACED = {"event_samples": 4410, "event_seconds": 0.005}
SETTINGS = {"crash_loop_deaths": 100_000}

EXPLANATION = (
    "A replay makes the segment again from its start, so the gap is the takeover and what the segment had taken so far: "
    "hibari needs about 0.2 s for its longest segment, `noise` as paced here 0.8 s. Listeners who play what they read "
    "have seconds in their buffer by then, and hear nothing."
)


def run(note: Note) -> str:
    """Measure."""
    rows, worst = [], 0.0
    for model, voice in (("hibari", "skylark"), ("noise", "paced")):
        with running_server(lanes(model, processes=2) | SETTINGS, voices={"paced": PACED}) as server:
            body = speech(LONG_TEXT, "pcm", model=model, voice=voice)
            with listening(server, body) as arrivals:
                quiet, killed = gaps(
                    server, arrivals, lambda done, model=model: note(f"{model}, {done} of {KILLS} kills")
                )
        worst = worst or percentile(killed, 0.99)
        for what, seconds in (("quiet", quiet), ("a kill", killed)):
            cells = [ms(percentile(seconds, 0.5)), ms(percentile(seconds, 0.99)), ms(max(seconds))]
            rows.append([f"{model}, {what}", *cells])
    head = ["Longest silence", "p50", "p99", "Most"]
    reached = goal("with a spare worker, hibari's gap stays under 150 ms (p99)", ms(worst), met=worst < GOAL_SECONDS)
    return f"{table(head, rows)}\n\n{reached}\n\n{EXPLANATION}"


@contextmanager
def listening(server: Server, body: bytes) -> Iterator[list[float]]:
    """A listener who asks again and again; the moments at which audio came, growing."""
    arrivals: list[float] = []
    stopping = threading.Event()

    def listen() -> None:
        client = Client(server.port)
        while not stopping.is_set():
            for _ in client.speak(body):
                arrivals.append(time.perf_counter())
                if stopping.is_set():
                    break
        client.close()

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield arrivals
    finally:
        stopping.set()
        thread.join()


def gaps(server: Server, arrivals: list[float], note: Any) -> tuple[list[float], list[float]]:
    """The longest silences before kills, and around them."""
    quiet, killed = [], []
    moments = random.Random(7)  # noqa: S311 - moments, not secrets
    while len(killed) < KILLS:
        server.wait_until_ready()
        time.sleep(WINDOW_SECONDS + moments.uniform(0, LONGEST_WAIT))
        busy = [worker["pid"] for worker in server.workers() if worker["busy"]]
        if not busy:
            continue
        moment = time.perf_counter()
        os.kill(busy[0], signal.SIGKILL)
        time.sleep(WINDOW_SECONDS)
        quiet.append(longest_silence(arrivals, moment - WINDOW_SECONDS, moment))
        killed.append(longest_silence(arrivals, moment, moment + WINDOW_SECONDS))
        note(len(killed))
    return quiet, killed


def longest_silence(arrivals: list[float], start: float, end: float) -> float:
    """The longest time between two arrivals, of which some lies between start and end."""
    return max((later - earlier for earlier, later in pairwise(arrivals) if later > start and earlier < end), default=0)
