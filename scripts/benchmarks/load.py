"""A cheap load generator in a process of its own: `load.py PORT CLIENTS SECONDS BODY` prints JSON.

It knows just enough HTTP to tell where an answer ends: the servers shall be slow, not the client.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import NamedTuple, cast

import uvloop

HOST = "127.0.0.1"
REQUEST = (
    "POST /v1/audio/speech HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    "Content-Length: {length}\r\n\r\n"
)
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# Refusals carry a Retry-After of at least that much, which OpenAI's clients obey.
RETRY_SECONDS = 1.0
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Answer(NamedTuple):
    """One that has come whole."""

    seconds: float
    size: int
    is_ok: bool


class Client(asyncio.Protocol):
    """Sends its request again as soon as the answer is there, or a second after a refusal."""

    def __init__(self, request: bytes, answers: list[Answer]) -> None:
        self._request = request
        self._answers = answers
        self._transport: asyncio.WriteTransport | None = None
        self._started = 0.0
        self._size = 0
        self._head = self._tail = b""
        self._end: int | None = None
        self._is_ok = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being its subclass
        self._send()

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        self._size += len(data)
        if self._end is None:
            self._find_end(data)
        # Nobody sends two requests at once, so that nothing follows the last chunk.
        self._tail = (
            (self._tail + data)[-len(LAST_CHUNK) :] if len(data) < len(LAST_CHUNK) else data[-len(LAST_CHUNK) :]
        )
        if self._size == self._end or (self._end == 0 and self._tail == LAST_CHUNK):
            self._answers.append(Answer(time.perf_counter() - self._started, self._size, self._is_ok))
            if self._is_ok:
                self._send()
            else:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._send)

    def _find_end(self, data: bytes) -> None:
        """Read the size of the answer out of its head; 0 when it comes in chunks."""
        self._head += data
        head, separator, _ = self._head.partition(b"\r\n\r\n")
        if separator:
            length = LENGTH.search(head)
            self._end = len(head) + len(separator) + int(length[1]) if length else 0
            self._is_ok = head.startswith(b"HTTP/1.1 200")

    def _send(self) -> None:
        self._end, self._size, self._is_ok = None, 0, False
        self._head = self._tail = b""
        self._started = time.perf_counter()
        if self._transport is not None:
            self._transport.write(self._request)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


async def main(port: int, count: int, seconds: float, body: bytes) -> None:
    """Load the server, and print what came of it."""
    request = REQUEST.format(host=HOST, port=port, length=len(body)).encode() + body
    answers: list[Answer] = []
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    clients = [(await loop.create_connection(lambda: Client(request, answers), HOST, port))[1] for _ in range(count)]
    await asyncio.sleep(seconds)
    taken = time.perf_counter() - started
    for client in clients:
        client.close()
    result = {
        "seconds": taken,
        "totals": [answer.seconds for answer in answers],
        "size": answers[-1].size if answers else 0,
        "errors": sum(not answer.is_ok for answer in answers),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4].encode()))
