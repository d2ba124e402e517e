"""Which pages of other origins may use the server from a browser.

Litestar's own answers to preflights name methods and headers to every origin, and refuse in plain text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dia_server.settings import Settings

EXPOSED_HEADERS = "X-Seed, X-Generation-ID, X-Audio-Duration, X-Model, X-Unused-Parameters, Retry-After"
ALLOWED_HEADERS = "Content-Type, Authorization, Cache-Control, X-API-Key, X-Request-ID, Idempotency-Key"
ALLOWED_METHODS = "GET, HEAD, POST, PUT, DELETE"
# Seconds for which a browser need not ask again; Chromium takes two hours at most.
PREFLIGHT_SECONDS = "7200"

Headers = list[tuple[bytes, bytes]]


class Cors:
    """Wraps the application, so that refusals are readable too. Other origins get no header and so no answer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        origin = _header(scope, b"origin")
        grant = self._grant(origin)
        is_preflight = scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method")
        if is_preflight and origin and self._is_allowed(origin):
            scope["path_template"] = "preflight"
            await send({"type": "http.response.start", "status": 204, "headers": [*grant, *_PREFLIGHT]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return

        async def send_with_grant(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *grant]
            await send(message)

        await self._app(scope, receive, send_with_grant)

    @property
    def _everyone(self) -> bool:
        return "*" in self._settings.cors_origins

    def _is_allowed(self, origin: str) -> bool:
        return self._everyone or _any_of(self._settings.cors_origins).fullmatch(origin) is not None

    def _grant(self, origin: str | None) -> Headers:
        vary = [] if self._everyone else [(b"vary", b"Origin")]
        if origin is None or not self._is_allowed(origin):
            return vary
        allowed = "*" if self._everyone else origin
        return [
            (b"access-control-allow-origin", allowed.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED_HEADERS.encode()),
            *vary,
        ]


_PREFLIGHT: Headers = [
    (b"access-control-allow-methods", ALLOWED_METHODS.encode()),
    (b"access-control-allow-headers", ALLOWED_HEADERS.encode()),
    (b"access-control-max-age", PREFLIGHT_SECONDS.encode()),
]


@lru_cache(maxsize=1)
def _any_of(origins: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(_pattern(origin) for origin in origins) or "(?!)")


def _pattern(origin: str) -> str:
    """A regular expression for an origin whose port may be `*`."""
    return re.escape(origin.removesuffix(":*")) + (r"(:\d{1,5})?" if origin.endswith(":*") else "")


def _header(scope: HTTPScope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
