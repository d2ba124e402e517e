"""Strict JSON bodies.

Litestar converts leniently (`"1.5"` passes for a number) and reads any content type as JSON; these bodies are decoded
once, by msgspec, as what they are.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import AsyncGenerator
from typing import Any, ClassVar

import msgspec
import structlog
from litestar import Request
from litestar.dto import AbstractDTO
from litestar.exceptions.http_exceptions import InternalServerException, RequestEntityTooLarge
from litestar.types import ASGIApp, Receive, Scope, Send

from dia_server.errors import BadInput, ClientLeft, TooManyUploads, UnsupportedMediaType
from dia_server.settings import Settings

log = structlog.get_logger(__name__)

_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_ITEM = re.compile(r"\[(?:\d+|\.\.\.)\]")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")

# The options of routes that take more than others: which setting bounds a form's file, or the whole body.
FILE_BOUND = "file_bound"
BODY_BOUND = "body_bound"
# What a form has besides the file: boundaries, headers, texts.
FORM_BYTES = 65_536


def bounded_request(settings: Settings) -> type[Request[Any, Any, Any]]:
    """Litestar's request with a body of at most `max_body_bytes`, or what the route's option names.

    Litestar's own bound can't be changed while it runs.
    """

    class BoundedRequest(Request[Any, Any, Any]):
        async def stream(self) -> AsyncGenerator[bytes, None]:
            options = self.route_handler.opt
            file_bound = options.get(FILE_BOUND)
            most = getattr(settings, file_bound or options.get(BODY_BOUND, "max_body_bytes"))
            most += FORM_BYTES if file_bound else 0
            # So nothing is read of a body that says how large it is.
            if (self.content_length or 0) > most:
                raise RequestEntityTooLarge
            size = 0
            try:
                async for chunk in super().stream():
                    size += len(chunk)
                    if size > most:
                        raise RequestEntityTooLarge
                    yield chunk
            except InternalServerException:  # Litestar's word for that
                raise ClientLeft("The client left before its request was there") from None

    return BoundedRequest


class LargeBodies:
    """Layers around routes with a `BODY_BOUND`: as many of their large requests are open as there may be uploads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = 0

    def __call__(self, app: ASGIApp) -> ASGIApp:
        """The layer around one route."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if _announced(scope) <= self._settings.max_body_bytes:
                await app(scope, receive, send)
                return
            if self._open >= self._settings.max_uploads:
                raise TooManyUploads(f"{self._open} large requests are open; try again in a moment")
            self._open += 1
            try:
                await app(scope, receive, send)
            finally:
                self._open -= 1

        return counted


def _announced(scope: Scope) -> float:
    """How many bytes the body will have, as far as its head tells."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else math.inf


class JsonBody(AbstractDTO[Any]):
    """Litestar's hook between the raw body and a handler's `data` argument, and its place in the OpenAPI document."""

    _decoders: ClassVar[dict[str, msgspec.json.Decoder[Any]]] = {}

    @classmethod
    def create_for_field_definition(cls, field_definition: Any, handler_id: str, backend_cls: Any = None) -> None:
        """Remember which struct the handler wants."""
        del backend_cls
        cls._decoders[handler_id] = msgspec.json.Decoder(field_definition.annotation)

    @classmethod
    def create_openapi_schema(cls, field_definition: Any, handler_id: str, schema_creator: Any) -> Any:
        """The struct as it stands."""
        del handler_id
        return schema_creator.for_field_definition(field_definition)

    def decode_bytes(self, value: bytes) -> Any:
        """The body as the handler's struct.

        Raises:
            UnsupportedMediaType, BadInput: what is wrong with it.
        """
        connection = self.asgi_connection
        assert isinstance(connection, Request)  # noqa: S101 - bodies come with requests only
        content_type = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise UnsupportedMediaType(f"Content-Type must be application/json, not '{content_type[:100]}'")
        data = decode_json(value, self._decoders[connection.route_handler.handler_id])
        if isinstance(data, msgspec.Struct) and log.is_enabled_for(logging.DEBUG):
            _name_ignored(value, data)
        return data

    @classmethod
    def generate_field_definitions(cls, model_type: type[Any]) -> Any:
        """Not asked for, since the struct is used as it stands."""
        raise AssertionError(model_type)

    @classmethod
    def detect_nested_field(cls, field_definition: Any) -> bool:
        """Not asked for either."""
        raise AssertionError(field_definition)


def decode_json(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """JSON as a struct, with no conversion between types.

    Raises:
        BadInput: not JSON, or not of the struct's shape; `param` names the field.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise explain(str(error), decoder.type) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"The body is not valid JSON: {str(error) or 'nested too deeply'}") from None


def _name_ignored(body: bytes, data: msgspec.Struct) -> None:
    """Tell which fields nobody knows: the first thing to look for when a client's setting does nothing."""
    ignored = msgspec.json.decode(body).keys() - set(data.__struct_encode_fields__)
    if ignored:
        log.debug("fields ignored", fields=sorted(name[:100] for name in ignored))


def explain(message: str, body: Any) -> BadInput:
    """msgspec's message with the field in front, and as `param`."""
    at = _PATH.search(message)
    if missing := _MISSING.search(message):
        name = f"{at['path']}.{missing['field']}" if at else missing["field"]
        return BadInput(f"'{name}' is required", param=name)
    if unknown := _UNKNOWN.search(message):
        return BadInput(
            f"There is no field '{unknown['field'][:100]}'{_fields(body, at)}", param=unknown["field"][:100]
        )
    if at:
        hint = _choices(body, at["path"]) if message.startswith("Invalid enum value") else ""
        return BadInput(f"'{at['path']}': {message[: at.start()]}{hint}", param=at["path"])
    return BadInput(message)


def _fields(body: Any, at: re.Match[str] | None) -> str:
    """Where an unknown field stands, or which fields there are."""
    return f" in '{at['path']}'" if at else f"; there are {', '.join(body.__struct_encode_fields__)}"


def choices_of(kind: Any) -> str:
    """The values that a type allows, which msgspec's message leaves out."""
    return _named(_alternatives(msgspec.inspect.type_info(kind)))


def _choices(body: Any, path: str) -> str:
    """The same for a field."""
    kinds: list[Any] = [msgspec.inspect.type_info(body)]
    for name in _ITEM.sub(".[]", path).split("."):
        kinds = [inner for kind in kinds for inner in _inside(kind, name)]
    return _named(kinds)


def _named(kinds: list[Any]) -> str:
    choices = [str(value) for kind in kinds if isinstance(kind, msgspec.inspect.LiteralType) for value in kind.values]
    return f"; allowed are {', '.join(choices)}" if choices else ""


def _inside(kind: Any, name: str) -> list[Any]:
    """The types that a field, or `[]` for an array's items, may have; those of a union apart."""
    match kind:
        case msgspec.inspect.StructType():
            inner = [field.type for field in kind.fields if field.encode_name == name]
        case msgspec.inspect.ListType() if name == "[]":
            inner = [kind.item_type]
        case _:
            inner = []
    return [each for item in inner for each in _alternatives(item)]


def _alternatives(kind: Any) -> list[Any]:
    plain = _plain(kind)
    return [_plain(each) for each in getattr(plain, "types", (plain,))]


def _plain(kind: Any) -> Any:
    """The type without what `Meta` says of it."""
    return kind.type if isinstance(kind, msgspec.inspect.Metadata) else kind
