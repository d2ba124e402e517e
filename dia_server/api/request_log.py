"""The outermost layer: gives each request an id, and one log line and its metrics when it is over."""

from __future__ import annotations

import random
import re
from time import monotonic
from typing import Any

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from dia_server import metrics
from dia_server.services.account import Account

REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
QUIET_ROUTES = frozenset({"/health", "/v1/health", "/metrics"})

log = structlog.get_logger(__name__)


class RequestLog:
    """Wraps the whole application, so that unknown routes are logged too. Bodies are never logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = monotonic()
        request_id = _request_id(scope)
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"generation_id": request_id, "log": {}}
        status = 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        finally:
            _account_for(scope, status, monotonic() - started)


def _request_id(scope: HTTPScope) -> str:
    given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"


def _account_for(scope: HTTPScope, status: int, seconds: float) -> None:
    route = scope.get("path_template") or "unknown"
    metrics.REQUESTS.labels(scope["method"], route, status).inc()
    metrics.REQUEST_SECONDS.labels(route).observe(seconds)
    fields = dict(scope["state"]["log"])
    account = fields.pop("account", None)
    if isinstance(account, Account):
        fields["audio_seconds"] = round(account.seconds, 3)
        fields["first_audio_seconds"] = account.first_audio_seconds and round(account.first_audio_seconds, 4)
        fields["fingerprint"] = account.fingerprint
        fields["real_time_factor"] = round(seconds / account.seconds, 4) if account.seconds else None
        if account.findings:
            fields["findings"] = account.findings
    (log.debug if route in QUIET_ROUTES else log.info)(
        "request",
        method=scope["method"],
        route=route,
        status=status,
        seconds=round(seconds, 4),
        generation_id=scope["state"]["generation_id"],
        **fields,
    )
