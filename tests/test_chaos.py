"""Workers die and hang, clients leave and dawdle: whoever is still listening hears what a quiet server says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import psutil
import pytest

from conftest import NOISE, SENTENCE, START_SECONDS, Server, make_home, running_server, wait_until

KILLS = {
    "crash_loop_deaths": 1000,
    "beat_timeout": 1.0,
    "lanes": {"speech": {"models": ["hibari", "noise"], "processes": 3}},
}
CLIENTS = 16
MEGABYTE = 1 << 20


def body(number: int) -> dict[str, object]:
    formats = ("wav", "mp3", "pcm", "opus")
    text = f"Request number {number}. It has a second sentence."
    return {"input": text, "voice": "skylark", "seed": number, "response_format": formats[number % 4]}


async def ask_all(url: str, clients: int, requests: int) -> list[bytes]:
    gate = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=clients)) as client:

        async def ask(number: int) -> bytes:
            async with gate:
                answer = await client.post("/v1/audio/speech", json=body(number))
                answer.raise_for_status()
                return answer.content

        return await asyncio.gather(*(ask(number) for number in range(requests)))


@contextmanager
def signals(server: Server, number: signal.Signals, every: float) -> Iterator[list[int]]:
    """A signal to some worker, first at once and then every so many seconds; the pids that got it."""
    over, hit, choice = threading.Event(), [], random.Random(0)

    def disturb() -> None:
        while not over.is_set():
            if pids := [worker["pid"] for worker in server.workers() if worker["state"] == "up"]:
                hit.append(choice.choice(pids))
                os.kill(hit[-1], number)
            over.wait(every)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield hit
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def sturdy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("sturdy"), KILLS)) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def quiet(sturdy: Server) -> Callable[[int], list[bytes]]:
    """Of so many requests, the bodies while nothing happens."""
    return cache(lambda requests: asyncio.run(ask_all(sturdy.url, 2, requests)))


@pytest.mark.parametrize("requests", [40, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("number", "every"), [(signal.SIGKILL, 1.0), (signal.SIGSTOP, 10.0)])
def test_bodies_under_signals_equal_the_quiet_ones(
    sturdy: Server, quiet: Callable[[int], list[bytes]], number: signal.Signals, every: float, requests: int
) -> None:
    expected = quiet(requests)
    before = sum(worker["deaths"] for worker in sturdy.workers())
    with signals(sturdy, number, every) as hit:
        disturbed = asyncio.run(ask_all(sturdy.url, CLIENTS, requests))
    assert hit
    assert disturbed == expected
    wait_until(lambda: all(worker["state"] == "up" for worker in sturdy.workers()))
    assert sum(worker["deaths"] for worker in sturdy.workers()) >= before + len(set(hit))


def hang_up(server: Server, number: int) -> None:
    """Ask, read a little or nothing, and leave; every fourth client before an answer can be there."""
    text = "It goes on and on, and nobody stays until the end. " * 4
    voice = ("skylark", "slow")[number % 2]
    fields = f'{{"input": "{text}", "voice": "{voice}", "model": "{("dia", "noise")[number % 2]}", '
    fields += f'"response_format": "{("wav", "mp3", "pcm")[number % 3]}", "seed": {number}}}'
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(fields)}\r\n\r\n{fields}".encode())
        if number % 4 and number % 3:
            connection.recv(1000)
        else:
            time.sleep(0.01)


def memory(server: Server) -> dict[int, int]:
    """Resident bytes of the server and its workers, by pid."""
    process = psutil.Process(server.process.pid)
    return {each.pid: each.memory_info().rss for each in (process, *process.children(recursive=True))}


@pytest.mark.parametrize(("first", "then"), [(40, 100), pytest.param(50, 200, marks=pytest.mark.soak)])
def test_clients_that_hang_up_leave_nothing_behind(sturdy: Server, first: int, then: int) -> None:
    for number in range(first):
        hang_up(sturdy, number)
    wait_until(lambda: sturdy.busy() == 0)
    before = memory(sturdy)
    for number in range(then):
        hang_up(sturdy, number)
    wait_until(lambda: sturdy.busy() == 0)
    after = memory(sturdy)
    assert after.keys() == before.keys()
    assert {pid: after[pid] - before[pid] for pid in after if after[pid] - before[pid] > 5 * MEGABYTE} == {}
    assert sturdy.speak(seed=1).status_code == 200


def test_slow_readers_hold_no_slot_and_little_memory(sturdy: Server) -> None:
    text = " ".join(f"Sentence {number} of a very long text that hardly anybody reads." for number in range(60))
    quiet = sturdy.speak(seed=5).content
    before = memory(sturdy)[sturdy.process.pid]
    with httpx.Client(base_url=sturdy.url, timeout=60, limits=httpx.Limits(max_connections=40)) as client:
        requests = [
            client.build_request(
                "POST",
                "/v1/audio/speech",
                json={"input": text, "voice": "static", "model": "noise", "seed": n, "response_format": "pcm"},
            )
            for n in range(30)
        ]
        answers = [client.send(request, stream=True) for request in requests]
        try:
            readers = [answer.iter_raw(1000) for answer in answers]
            for _ in range(3):
                assert all(len(next(reader)) == 1000 for reader in readers)
                assert sturdy.speak(seed=5).content == quiet
                time.sleep(0.5)
            wait_until(lambda: sturdy.busy() == 0)
            # A clip of 4 minutes is 12 MB of pcm; what is held of it is the window of segments.
            assert memory(sturdy)[sturdy.process.pid] - before < 30 * 5 * MEGABYTE
        finally:
            for answer in answers:
                answer.close()
    wait_until(lambda: sturdy.busy() == 0)


def test_a_terminated_server_ends_its_work_and_takes_no_more(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE)) as server:
        server.wait_until_ready()
        # More than the sockets hold, so that it goes on until it is read.
        fields = {"input": SENTENCE * 90, "voice": "static", "model": "noise", "response_format": "pcm", "seed": 1}
        quiet = server.post("/v1/audio/speech", fields).content
        with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=fields, timeout=60) as running:
            pieces = running.iter_raw()
            heard = next(pieces)
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.get("/health").json()["draining"])
            refused = server.speak()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            assert refused.headers["retry-after"]
            assert server.get("/health?ready").status_code == 503
            heard += b"".join(pieces)
        assert heard == quiet
        assert server.process.wait(timeout=START_SECONDS) == 0


def test_workers_die_with_their_server(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE)) as server:
        server.wait_until_ready()
        workers = [psutil.Process(worker["pid"]) for worker in server.workers()]
        server.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=START_SECONDS)
        assert alive == []
