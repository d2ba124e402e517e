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

from benchmarks.common import (
    LONG_TEXT,
    Client,
    Note,
    Server,
    goal,
    lanes,
    ms,
    running_server,
    speech,
    table,
)
from dia_server.bench import percentile

TITLE = "Replay"
MEASURED = (
    "The longest silence on the wire within half a second of a worker's death: one listener reads pcm as fast as it is "
    "made, and of two worker processes the busy one gets SIGKILL at a random moment while both are up; next to it, the "
    "longest silence in half a second without a kill."
)

KILLS = 60
QUIET_WINDOWS = 20
WINDOW_SECONDS = 0.5
LONGEST_WAIT = 0.3
GOAL_SECONDS = 0.15
# 50 times real time, in events of 0.1 s, without a core being busy: what is made again takes as long as it took.
PACED = {"event_samples": 4410, "event_seconds": 0.002}
SETTINGS = {"crash_loop_deaths": 100_000}

EXPLANATION = (
    "A replay makes the segment again from its start, so the gap is the takeover and what the segment took so far. "
    "Here segments are sentences of 57 to 89 characters; one of 250, the longest that the settings allow, takes three "
    "times as long. Listeners who play what they read have seconds in their buffer by then, and hear nothing."
)


def run(note: Note) -> str:
    """Measure."""
    rows, worst = [], 0.0
    for model, voice in (("hibari", "skylark"), ("noise", "paced")):
        with running_server(lanes(model, processes=2) | SETTINGS, voices={"paced": PACED}) as server:
            note(f"{model}, quiet")
            with listening(server, speech(LONG_TEXT, "pcm", model=model, voice=voice)) as arrivals:
                started = time.perf_counter()
                time.sleep(QUIET_WINDOWS * WINDOW_SECONDS)
                kills = kill_workers(server, note)
        quiet = [longest_silence(arrivals, started + number * WINDOW_SECONDS) for number in range(QUIET_WINDOWS)]
        killed = [longest_silence(arrivals, moment) for moment in kills]
        worst = worst or percentile(killed, 0.99)
        for what, seconds in (("without", quiet), ("with a kill", killed)):
            rows.append([f"{model}, {what}", ms(percentile(seconds, 0.5)), ms(percentile(seconds, 0.99)), len(seconds)])
    head = ["Longest silence", "p50", "p99", "Of"]
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


def kill_workers(server: Server, note: Note) -> list[float]:
    """Kill the busy worker again and again, always with the other one up; the moments."""
    kills: list[float] = []
    moments = random.Random(7)  # noqa: S311 - moments, not secrets
    while len(kills) < KILLS:
        server.wait_until_ready()
        time.sleep(moments.uniform(0, LONGEST_WAIT))
        busy = [worker["pid"] for worker in server.workers() if worker["busy"]]
        if busy:
            kills.append(time.perf_counter())
            os.kill(busy[0], signal.SIGKILL)
            note(f"{len(kills)} of {KILLS} kills")
            time.sleep(WINDOW_SECONDS)
    return kills


def longest_silence(arrivals: list[float], start: float) -> float:
    """The longest time between two arrivals, of which some lies in the window that begins at `start`."""
    end = start + WINDOW_SECONDS
    return max(later - earlier for earlier, later in pairwise(arrivals) if later > start and earlier < end)
