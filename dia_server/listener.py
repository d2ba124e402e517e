"""A listener's end of HTTP, for measuring speech servers: a connection that is kept, and when the bytes came over it.

httptools reads the answers, so that the client costs little next to the server that it measures.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, Self, cast
from urllib.parse import urlsplit

import httptools

from dia_server.errors import BadInput

SPEECH = "/v1/audio/speech"
OK = 200
# A model that is slow, behind a queue that is long.
ANSWER_SECONDS = 300.0
# For whoever gets a refusal without a Retry-After.
RETRY_SECONDS = 1.0


class Target(NamedTuple):
    """Whom to ask for speech."""

    host: str
    port: int
    path: str
    tls: bool
    api_key: str | None

    @classmethod
    def of(cls, url: str, api_key: str | None = None) -> Self:
        """The speech route of a server; `url` may be the server's address, its `/v1` or the route itself.

        Raises:
            BadInput: that is no address.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise BadInput(f"'{url}' is no address: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"'{url}' is no address; give one like http://localhost:7860")
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/")
        if not path.endswith("/audio/speech"):
            path = path.removesuffix("/v1") + SPEECH
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.hostname, port or (443 if tls else 80), path + query, tls, api_key)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' * self.tls}://{host}:{self.port}{self.path}"

    def request(self, body: bytes) -> bytes:
        """The bytes that ask it for what `body` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {host}:{self.port}\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class Answer(NamedTuple):
    """What came of a request.

    Attributes:
        status: of HTTP; 0 where the connection broke before the answer's end.
        first_byte: seconds from the request to the first byte of the body.
        seconds: from the request to the end.
        is_text: the body calls itself JSON or text, so it is no audio.
        retry_after: seconds to wait before the next request; 0 after a 200.
    """

    status: int
    first_byte: float
    seconds: float
    body: bytes
    is_text: bool
    retry_after: float


class Limit:
    """How much to ask for, by all listeners together: a number of requests, or whatever begins within some seconds."""

    def __init__(self, *, requests: int | None = None, seconds: float = float("inf")) -> None:
        self._requests = float("inf") if requests is None else requests
        self._end = perf_counter() + seconds

    @property
    def seconds_left(self) -> float:
        """Until nothing new is to begin."""
        return max(0.0, self._end - perf_counter()) if self._requests else 0.0

    def takes_another(self) -> bool:
        """Whether another request may begin; it counts then."""
        if not self.seconds_left:
            return False
        self._requests -= 1
        return True


class Listener(asyncio.Protocol):
    """One connection, opened anew whenever the server has closed it, for one request at a time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._started = 0.0

    async def connect(self) -> None:
        """Be connected.

        Raises:
            OSError: the server can't be reached.
        """
        if self._transport is None:
            tls = ssl.create_default_context() if self._target.tls else None
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self, self._target.host, self._target.port, ssl=tls)

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and wait for the end of its answer.

        Raises:
            OSError: the server can't be reached, or takes longer than `ANSWER_SECONDS`.
        """
        await self.connect()
        self._answer = asyncio.get_running_loop().create_future()
        self._status, self._first_byte, self._retry_after = 0, 0.0, 0.0
        self._pieces: list[bytes] = []
        self._is_text = False
        self._ends_with_connection = True
        self._started = perf_counter()
        cast(asyncio.WriteTransport, self._transport).write(request)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._answer
        except TimeoutError:
            self.close()
            raise TimeoutError(f"no answer after {ANSWER_SECONDS:g} s") from None

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being its subclass
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        """asyncio: part of an answer."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the server has hung up, or we have."""
        self._transport = None
        is_whole = exc is None and self._status and self._ends_with_connection
        self._finish(self._status if is_whole else 0)

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header."""
        match name.lower():
            case b"content-length" | b"transfer-encoding":
                self._ends_with_connection = False
            case b"content-type":
                self._is_text = value.startswith((b"application/json", b"text/"))
            case b"retry-after" if value.isdigit():
                self._retry_after = float(value)

    def on_headers_complete(self) -> None:
        """httptools: all headers."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """httptools: part of the body."""
        self._first_byte = self._first_byte or perf_counter() - self._started
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """httptools: the end of an answer that says where it ends."""
        if not self._parser.should_keep_alive():
            self.close()
        self._finish(self._status)

    def _finish(self, status: int) -> None:
        if self._answer is None or self._answer.done():
            return
        seconds = perf_counter() - self._started
        retry_after = 0.0 if status == OK else self._retry_after or RETRY_SECONDS
        body = b"".join(self._pieces)
        self._answer.set_result(Answer(status, self._first_byte or seconds, seconds, body, self._is_text, retry_after))


async def listen(
    target: Target, body: bytes, *, clients: int, limit: Callable[[], Limit], heard: Callable[[Answer], None]
) -> float:
    """Have so many listeners ask again and again, each as soon as it has its answer; the seconds that it took.

    Whoever is refused waits for as long as the server says before the next request, which is one more, not a second
    try. What has begun in time is waited for. `limit` is asked for once all are connected.

    Raises:
        OSError: the server can't be reached.
    """
    listeners = [Listener(target) for _ in range(clients)]
    request = target.request(body)

    async def keep_asking(listener: Listener) -> None:
        while allowed.takes_another():
            try:
                answer = await listener.ask(request)
            except OSError:
                answer = Answer(0, 0.0, 0.0, b"", is_text=False, retry_after=RETRY_SECONDS)
            heard(answer)
            if answer.retry_after:
                left = allowed.seconds_left
                await asyncio.sleep(min(answer.retry_after, left))
                if answer.retry_after >= left:
                    return  # a timer may go off a little early

    try:
        await asyncio.gather(*(listener.connect() for listener in listeners))
        started, allowed = perf_counter(), limit()
        await asyncio.gather(*(keep_asking(listener) for listener in listeners))
        return perf_counter() - started
    finally:
        for listener in listeners:
            listener.close()
