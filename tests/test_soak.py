"""Ten minutes of everything at once. Run by `make soak`."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from conftest import make_home, running_server, wait_until
from test_chaos import KILLS, MEGABYTE, ask_all, hang_up, memory, signals

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
WARM_UP_MINUTES = 1.0
SAMPLE_SECONDS = 5.0
STEEPEST_MB_PER_MINUTE = 0.5


@contextmanager
def repeating(action: Callable[[], object], pause: float) -> Iterator[None]:
    """The action over and over in a thread; what it raises fails the block's end."""
    over, errors = threading.Event(), []

    def run() -> None:
        try:
            while not over.wait(pause):
                action()
        except Exception as error:  # noqa: BLE001 - handed over to the test
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not errors


def slopes(samples: list[tuple[float, dict[int, int]]]) -> dict[int, float]:
    """Growth of each process that lived through all samples, in megabytes per minute."""
    minutes = np.array([at for at, _ in samples]) / 60
    pids = set.intersection(*(set(sizes) for _, sizes in samples))
    return {pid: float(np.polyfit(minutes, [sizes[pid] / MEGABYTE for _, sizes in samples], 1)[0]) for pid in pids}


def test_memory_stays_level_under_load_and_hang_ups(tmp_path: Path) -> None:
    dice = random.Random(0)
    with running_server(make_home(tmp_path)) as server:
        server.wait_until_ready()
        started, samples = time.monotonic(), []
        with (
            repeating(lambda: hang_up(server, dice.randrange(1000)), 0.05),
            repeating(lambda: server.speak(seed=dice.randrange(1000), response_format="mp3").raise_for_status(), 0.01),
        ):
            while (elapsed := time.monotonic() - started) < 60 * MINUTES:
                if elapsed > 60 * WARM_UP_MINUTES:
                    samples.append((elapsed, memory(server)))
                time.sleep(SAMPLE_SECONDS)
        wait_until(lambda: server.busy() == 0)
        found = slopes(samples)
        print({pid: round(slope, 3) for pid, slope in found.items()}, "MB a minute")  # noqa: T201
        assert len(found) >= 4
        assert all(slope < STEEPEST_MB_PER_MINUTE for slope in found.values())


@pytest.mark.parametrize(("number", "every"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 10.0)])
def test_bodies_stay_the_same_through_minutes_of_signals(tmp_path: Path, number: signal.Signals, every: float) -> None:
    with running_server(make_home(tmp_path, KILLS)) as server:
        server.wait_until_ready()
        quiet = asyncio.run(ask_all(server.url, clients=2))
        deadline = time.monotonic() + 60 * MINUTES / 2
        with signals(server, number, every) as hit:
            while time.monotonic() < deadline:
                assert asyncio.run(ask_all(server.url, clients=16)) == quiet
        assert len(hit) > 1
