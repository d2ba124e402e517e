"""Who may call which route: keys, and how often."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from hashlib import sha256
from math import ceil
from time import monotonic
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from dia_server.errors import NotAuthenticated, RateLimited
from dia_server.settings import Settings

# Everything else is closed. Probes bring no key, and the docs' page has no way to send one before it is read.
OPEN_ROUTES = frozenset({"/", "/health", "/v1/health"})
OPEN_FOLDERS = ("/schema/", "/pages/")
# Open WebUI, for one, sends no key when it asks for these.
LIST_ROUTES = frozenset({"/voices", "/v1/voices", "/v1/models", "/v1/audio/models", "/v1/audio/voices"})

# Only these methods are: a path that lists voices may also make them.
READING = frozenset({"GET", "HEAD", "OPTIONS"})

# The option of a route that counts for `requests_per_minute`.
RATED = "rated"
# Callers beyond that are forgotten, the longest silent first: 2 MB at most.
MAX_CALLERS = 10_000

Connection = ASGIConnection[Any, Any, Any, Any]


class KeyGuard:
    """Refuses requests without a key of `settings.api_keys`, except to open routes."""

    def __init__(self, settings: Settings) -> None:
        self._digests = [_digest(key.encode()) for key in settings.api_keys]
        self._settings = settings

    async def __call__(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Note the caller of a request that may pass.

        Raises:
            NotAuthenticated: it may not.
        """
        del handler
        if not self._digests or self._is_open(connection.scope.get("method"), connection.scope["path_template"]):
            return
        given = [_digest(key) for key in _keys_in(connection.scope["headers"])]
        known = [digest for digest in given if self._is_known(digest)]
        if not known:
            what = "The API key is wrong" if given else "An API key is missing"
            raise NotAuthenticated(f"{what}; send one of the server's as 'Authorization: Bearer …' or 'X-API-Key: …'")
        connection.scope["state"]["caller"] = known[0]

    def _is_open(self, method: object, route: str) -> bool:
        is_open = route in OPEN_ROUTES or (route in LIST_ROUTES and not self._settings.protect_lists)
        return method in READING and (is_open or f"{route}/".startswith(OPEN_FOLDERS))

    def _is_known(self, digest: bytes) -> bool:
        # All are compared, so that time tells nothing.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()


def _keys_in(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """The keys that a request brings, without blank ones; a header that comes twice says nothing."""
    fields: dict[bytes, list[bytes]] = {b"authorization": [], b"x-api-key": []}
    for name, value in headers:
        if name in fields:
            fields[name].append(value.strip())
    keys = []
    for name, values in fields.items():
        scheme, _, token = values[0].partition(b" ") if name == b"authorization" and values else (b"", b"", b"")
        key = token.strip() if scheme.lower() == b"bearer" else values[0] if name == b"x-api-key" and values else b""
        if key and len(values) == 1:
            keys.append(key)
    return keys


class TurnGuard:
    """Lets one request to a rated route begin per turn of the event loop.

    Several hundred that come at once would else be read, planned and refused in one turn, and whoever only asks how the
    server is would wait for all of them.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __call__(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Wait for the turn."""
        del connection
        if handler.opt.get(RATED):
            async with self._turn:
                await asyncio.sleep(0)


class RateGuard:
    """Refuses requests to rated routes beyond `settings.requests_per_minute`.

    A caller may make a minute's requests at once and gets one more each time that its share of a minute is over. Only
    the moment at which all of a caller's requests will be paid off is kept.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due: dict[object, float] = {}

    async def __call__(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Count a request.

        Raises:
            RateLimited: its caller has made too many; `retry_after` says when the next one counts again.
        """
        limit = self._settings.requests_per_minute
        if limit is None or not handler.opt.get(RATED):
            return
        # `X-Forwarded-For` says what the client wants it to say.
        address = connection.client.host if connection.client else None
        wait = self._take(connection.scope["state"].get("caller", address), 60 / limit)
        if wait > 0:
            raise RateLimited(
                f"{limit} requests a minute are allowed; try again in {ceil(wait)} s", retry_after=ceil(wait)
            )

    def _take(self, caller: object, share: float) -> float:
        """Seconds until the caller may make a request that costs `share` seconds; 0 if it has made it now."""
        now = monotonic()
        due = max(self._due.pop(caller, now), now) + share
        wait = max(due - now - 60, 0.0)
        self._due[caller] = due - share if wait else due
        if len(self._due) > MAX_CALLERS:
            del self._due[next(iter(self._due))]
        return wait
