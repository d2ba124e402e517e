"""Every failure becomes an answer in its family's envelope; nothing of ours leaks into it."""

from __future__ import annotations

import errno
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.types import Scope

from dia_server.api.bodies import choices_of
from dia_server.api.dialect import dialect_of
from dia_server.errors import BadInput, DiaServerError, StorageFull, StorageUnavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# A file that is mounted by itself is busy: no other can take its place.
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.EBUSY})

log = structlog.get_logger(__name__)


def on_expected(request: Request[Any, Any, Any], error: DiaServerError) -> Response[bytes]:
    """An error of ours."""
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.final:
        # OpenAI's clients retry any 5xx twice unless they are told.
        headers["x-should-retry"] = "false"
    return _answer(request, error, error.status, headers)


def on_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """An error that Litestar found: no route, wrong method, body too large, a bad query parameter."""
    status, headers = error.status_code, dict(error.headers or {})
    path, method = request.scope["path"], request.scope["method"]
    match status:
        case HTTPStatus.NOT_FOUND:
            ours = DiaServerError(f"There is no route {method} {path[:200]}; see /schema for those there are")
            ours.code = "unknown_route"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            ours = DiaServerError(f"{path[:200]} does not take {method}; see /schema for what it takes")
            ours.code = "method_not_allowed"
            if "GET" in headers.get("allow", ""):
                headers["allow"] += ", HEAD"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            ours = DiaServerError(
                "The body is larger than the settings allow: max_body_bytes, or max_task_body_bytes for /tts"
            )
            ours.code = "body_too_large"
        case _:
            ours = _invalid(request, error)
    return _answer(request, ours, status, headers)


def _invalid(request: Request[Any, Any, Any], error: HTTPException) -> BadInput:
    """What Litestar says of a query parameter, and of a body that is missing."""
    first = error.extra[0] if isinstance(error.extra, list) and error.extra else {}
    name = first.get("key")
    if name == "data":
        return BadInput("The body is empty; send a JSON object")
    if not name:
        return BadInput(error.detail)
    message = first.get("message", "")
    if message.startswith("Invalid enum value"):
        message += choices_of(request.route_handler.parsed_fn_signature.parameters[name].annotation)
    return BadInput(f"'{name}': {message}", param=name)


def on_storage(request: Request[Any, Any, Any], error: OSError) -> Response[bytes]:
    """The home can't be written to, which is for the admin to mend; any other error of the system is a bug."""
    if error.errno in _FULL:
        return on_expected(request, StorageFull("The server's disk is full; the change is not complete"))
    if error.errno in _READ_ONLY:
        log.error("home can't be written to", reason=error.strerror, file=error.filename)
        reason = "The server can't write to its home, and its log says why; the change is not complete"
        return on_expected(request, StorageUnavailable(reason, retry_after=60))
    return on_unexpected(request, error)


def on_unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A bug: the client gets an id that the log has too."""
    log.error("unexpected error", exc_info=error, generation_id=request.scope["state"].get("generation_id"))
    return _answer(request, _internal(request.scope), HTTPStatus.INTERNAL_SERVER_ERROR, {"x-should-retry": "false"})


def envelope(scope: Scope, error: Exception) -> dict[str, Any]:
    """The body that tells of an error in the words of the family that the request's path belongs to."""
    ours = error if isinstance(error, DiaServerError) else _internal(scope)
    return dialect_of(scope["path"]).envelope(ours, ours.status)


def _internal(scope: Scope) -> DiaServerError:
    generation_id = scope["state"].get("generation_id")
    return DiaServerError(f"Internal error; the server's log has more under generation id {generation_id}")


def _answer(
    request: Request[Any, Any, Any], error: DiaServerError, status: int, headers: dict[str, str]
) -> Response[bytes]:
    body = msgspec.json.encode(dialect_of(request.scope["path"]).envelope(error, status))
    return Response(body, status_code=status, media_type="application/json", headers=headers)
