"""Many more clients than the server takes: everyone gets an answer, and those who are served get the right bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from conftest import NOISE, Server, make_home, running_server, wait_until

QUEUE = 32
BODY = json.dumps({"input": "Hello there.", "voice": "busy", "seed": 5, "response_format": "pcm"}).encode()


async def exchange(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body as they came, over a connection of its own."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        head, _, body = (await asyncio.wait_for(reader.read(), 60)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    status, *fields = head.decode().split("\r\n")
    return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body


def speech() -> bytes:
    head = "POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def storm(server: Server, clients: int) -> tuple[list[tuple[int, dict[str, str], bytes]], list[int]]:
    """The answers to all clients at once, and the statuses of `/health` meanwhile."""
    health = []

    async def watch() -> None:
        while True:
            health.append((await exchange(server, HEALTH))[0])
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(exchange(server, speech()) for _ in range(clients)))
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    return answers, health


@pytest.mark.parametrize("clients", [500, pytest.param(2_000, marks=pytest.mark.soak)])
def test_a_storm_of_clients(tmp_path: Path, clients: int) -> None:
    settings = {**NOISE, "max_queue": QUEUE}
    home = make_home(tmp_path, settings)
    # A tenth of a second or so per clip, so that the queue fills faster than it empties.
    busy = {"models": {"noise": {"event_samples": 4410, "event_seconds": 0.01}}}
    (home / "voices" / "busy.yaml").write_text(yaml.safe_dump(busy), encoding="utf-8")
    with running_server(home) as server:
        server.wait_until_ready()
        _, _, calm = asyncio.run(exchange(server, speech()))
        answers, health = asyncio.run(storm(server, clients))
        statuses = Counter(status for status, _, _ in answers)
        assert statuses.keys() <= {200, 503}
        assert statuses[200] >= QUEUE
        assert statuses[503]
        for status, headers, body in answers:
            if status == 503:
                assert int(headers["retry-after"]) >= 1
                assert json.loads(body)["error"]["code"] == "queue_full"
        served = {unchunked(body) for status, _, body in answers if status == 200}
        assert served == {unchunked(calm)}
        assert health
        assert set(health) == {200}
        wait_until(lambda: server.busy() == 0)
        assert unchunked(asyncio.run(exchange(server, speech()))[2]) == unchunked(calm)


def unchunked(body: bytes) -> str:
    """A hash of what the chunks of a body hold together."""
    digest = hashlib.sha256()
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        digest.update(body[:length])
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]
        if not length:
            assert not body
            return digest.hexdigest()
    raise AssertionError("the stream was broken")
