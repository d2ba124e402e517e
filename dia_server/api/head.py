"""HEAD, which uptime monitors send: answered as GET is, without the body."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send


class HeadAsGet:
    """Wraps the application, which only knows GET; uvicorn leaves the bodies of answers to HEAD out by itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        # A copy, since uvicorn looks the method up in its own.
        as_get = scope.copy()
        as_get["method"] = "GET"
        try:
            await self._app(as_get, receive, send)
        finally:
            scope["path_template"] = as_get.get("path_template", "")
