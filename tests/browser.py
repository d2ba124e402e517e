"""What a browser lets a page of another origin do: it asks first, and hides what it was not told to show."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

SIMPLE_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
SIMPLE_HEADERS = {"accept", "accept-language", "content-language", "content-type"}
SHOWN_HEADERS = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified"}


class BlockedError(Exception):
    """The page gets a `TypeError: Failed to fetch`."""


class Page:
    """A page with `fetch`, by the rules of https://fetch.spec.whatwg.org, without credentials."""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def fetch(
        self, url: str, method: str = "GET", headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        """The answer, with the headers that the page may see."""
        unsafe = self._unsafe(headers or {})
        if unsafe or method not in ("GET", "HEAD", "POST"):
            self._ask(url, method, unsafe)
        answer = httpx.request(
            method, url, headers={**(headers or {}), "Origin": self._origin}, content=content, timeout=60
        )
        self._check_origin(answer)
        shown = SHOWN_HEADERS | _names(answer.headers.get("access-control-expose-headers", ""))
        kept = {name: value for name, value in answer.headers.items() if name in shown}
        return httpx.Response(answer.status_code, headers=kept, content=answer.content)

    def _unsafe(self, headers: Mapping[str, str]) -> set[str]:
        lowered = {name.lower(): value for name, value in headers.items()}
        unsafe = lowered.keys() - SIMPLE_HEADERS
        if lowered.get("content-type", "text/plain").partition(";")[0] not in SIMPLE_TYPES:
            unsafe |= {"content-type"}
        return set(unsafe)

    def _ask(self, url: str, method: str, unsafe: set[str]) -> None:
        answer = httpx.options(
            url,
            headers={
                "Origin": self._origin,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": ",".join(sorted(unsafe)),
            },
        )
        self._check_origin(answer)
        if not answer.is_success:
            raise BlockedError(f"the preflight got {answer.status_code}")
        if method.lower() not in _names(answer.headers.get("access-control-allow-methods", "")):
            raise BlockedError(f"{method} is not allowed")
        if missing := unsafe - _names(answer.headers.get("access-control-allow-headers", "")):
            raise BlockedError(f"{missing} are not allowed")

    def _check_origin(self, answer: httpx.Response) -> None:
        allowed = answer.headers.get_list("access-control-allow-origin")
        if allowed not in ([self._origin], ["*"]):
            raise BlockedError(f"{allowed} does not name {self._origin}")


def _names(field: str) -> set[str]:
    return {name.strip().lower() for name in field.split(",") if name.strip()}
