"""How each family of routes words its errors: data that the handlers and middleware never ask about."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec

from dia_server.errors import DiaServerError

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


class Dialect(msgspec.Struct, frozen=True):
    """A family of routes.

    Attributes:
        prefix: paths that begin so belong to the family; the longest match wins.
        envelope: makes the body of an error answer.
    """

    prefix: str
    envelope: Callable[[DiaServerError, int], dict[str, Any]]


def _openai(error: DiaServerError, status: int) -> dict[str, Any]:
    # `error` is OpenAI's; clients of the Dia API read `detail` on these paths too.
    kind = _OPENAI_TYPES.get(
        status, "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    )
    return {
        "error": {"message": error.message, "type": kind, "param": error.param, "code": error.code},
        "detail": error.message,
    }


def _plain(error: DiaServerError, status: int) -> dict[str, Any]:
    del status
    return {"detail": error.message}


DIALECTS = (Dialect("/v1/", _openai), Dialect("/", _plain))


def dialect_of(path: str) -> Dialect:
    """The family that a path belongs to, whether or not there is a route."""
    # `OPTIONS *` has a path without a slash.
    return next((dialect for dialect in DIALECTS if f"{path}/".startswith(dialect.prefix)), DIALECTS[-1])
