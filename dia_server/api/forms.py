"""Strict forms with a file (multipart/form-data): decoded once, by msgspec, as bodies in JSON are."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from litestar.connection import ASGIConnection
from litestar.datastructures import UploadFile
from litestar.handlers import BaseRouteHandler

from dia_server.api.bodies import JsonBody, explain
from dia_server.errors import BadInput, UnsupportedMediaType

FORM = "multipart/form-data"


class FormBody(JsonBody):
    """Litestar's hook between a parsed form and a handler's `data` argument; use it with the guard `only_forms`."""

    _structs: ClassVar[dict[str, Any]] = {}

    @classmethod
    def create_for_field_definition(cls, field_definition: Any, handler_id: str, backend_cls: Any = None) -> None:
        """Remember which struct the handler wants."""
        del backend_cls
        cls._structs[handler_id] = field_definition.annotation

    def decode_builtins(self, value: dict[str, Any]) -> Any:
        """The form as the handler's struct.

        Raises:
            BadInput: a field is missing or wrong; `param` names it.
        """
        return decode_form(value, self._structs[self.asgi_connection.route_handler.handler_id])


async def only_forms(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard that refuses other bodies before they are read.

    Raises:
        UnsupportedMediaType: the request brings no form.
    """
    del handler
    given, _, parameters = connection.headers.get("content-type", "").partition(";")
    if given.strip().lower() != FORM:
        raise UnsupportedMediaType(f"Content-Type must be {FORM}, not '{given.strip()[:100]}'")
    if "boundary=" not in parameters.lower():
        raise BadInput(f"Content-Type {FORM} must name its boundary")


def decode_form(fields: dict[str, Any], struct: Any) -> Any:
    """A form's fields as a struct; texts become numbers and truths where the struct wants them, empty ones are absent.

    A list's name may end in `[]`, as OpenAI's clients write it.

    Raises:
        BadInput: a field is missing, wrong, or there twice.
    """
    lists = {field.name for field in msgspec.inspect.type_info(struct).fields if _is_list(field.type)}  # type: ignore[attr-defined]
    given: dict[str, Any] = {}
    for name, value in fields.items():
        plain = name.removesuffix("[]")
        if value != "":
            given[plain] = [value] if plain in lists and not isinstance(value, list) else value
    try:
        return msgspec.convert(given, struct, strict=False, dec_hook=_file)
    except msgspec.ValidationError as error:
        raise explain(str(error), struct) from None


def _is_list(kind: msgspec.inspect.Type) -> bool:
    return any(isinstance(each, msgspec.inspect.ListType) for each in getattr(kind, "types", (kind,)))


def _file(kind: type[Any], value: object) -> Any:
    if kind is UploadFile and isinstance(value, UploadFile):
        return value
    raise ValueError("Expected one file, with its name")
