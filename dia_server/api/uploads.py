"""Forms with a file in them, read as they come: the file goes to the disk, and never grows beyond its bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException
from multipart import MultipartError, MultipartSegment, PushMultipartParser

from dia_server.errors import BadInput, TooLarge, TooManyUploads, UnsupportedMediaType
from dia_server.files import temporary
from dia_server.settings import Settings

# The longest text is a name; a form has three of them.
MAX_TEXT_BYTES = 4_096
MAX_PARTS = 32

_TRUTHS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}


class Form(msgspec.Struct, frozen=True):
    """A form that has arrived.

    Attributes:
        texts: the fields that were asked for and are there; one whose name ends in `[]` may be there several times, its
            texts joined by commas.
        file: where the file lies until the form is done with; `file_hash` is its sha256.
    """

    texts: Mapping[str, str]
    file: Path
    file_hash: str

    def text(self, name: str) -> str:
        """A field.

        Raises:
            BadInput: it is missing or blank.
        """
        text = self.texts.get(name, "").strip()
        if not text:
            raise BadInput(f"'{name}' is required", param=name)
        return text

    def flag(self, name: str) -> bool:
        """A field that says yes or no; absent means no.

        Raises:
            BadInput: it says something else.
        """
        text = self.texts.get(name, "false").strip().lower()
        if text not in _TRUTHS:
            raise BadInput(f"'{name}' must be true or false", param=name)
        return _TRUTHS[text]


class Uploads:
    """Receives forms, `settings.max_uploads` at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = 0

    @asynccontextmanager
    async def receive(
        self, request: Request[Any, Any, Any], *, file_field: str, texts: tuple[str, ...], max_bytes: int
    ) -> AsyncIterator[Form]:
        """The request's form; the file is gone after the block.

        Raises:
            BadInput, UnsupportedMediaType, TooLarge, TooManyUploads: it is not taken.
        """
        parser = _parser_for(request)
        if self._open >= self._settings.max_uploads:
            raise TooManyUploads(f"{self._open} uploads are open, and no more are allowed; try again in a moment")
        self._open += 1
        try:
            with temporary() as (file, path):
                reader = _Reader(parser, file, file_field, texts, max_bytes)
                await _read(request, reader)
                file.close()
                yield Form(reader.finish(), path, reader.file_hash)
        finally:
            self._open -= 1


def _parser_for(request: Request[Any, Any, Any]) -> PushMultipartParser:
    kind, options = request.content_type
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(f"Content-Type must be multipart/form-data, not '{kind[:100]}'")
    try:
        return PushMultipartParser(options.get("boundary", ""), max_segment_count=MAX_PARTS)
    except (MultipartError, ValueError) as error:
        raise BadInput(f"The form can't be read: {error}") from None


async def _read(request: Request[Any, Any, Any], reader: _Reader) -> None:
    try:
        async for chunk in request.stream():
            if chunk:
                await asyncio.to_thread(reader.feed, chunk)
    except MultipartError as error:
        raise BadInput(f"The form can't be read: {error}") from None
    except HTTPException as error:
        if error.status_code == TooLarge.status:
            raise
        raise BadInput("The upload broke off") from None


class _Reader:
    """Takes a form apart; the texts are kept, the file is written on.

    Attributes:
        file_hash: sha256 of the file, once it is there.
    """

    file_hash = ""

    def __init__(
        self, parser: PushMultipartParser, file: IO[bytes], file_field: str, texts: tuple[str, ...], max_bytes: int
    ) -> None:
        self._parser = parser
        self._file = file
        self._file_field = file_field
        self._texts = {name: bytearray() for name in texts}
        self._max_bytes = max_bytes
        self._size = 0
        self._digest = sha256()
        self._name = ""
        self._names: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Take what came.

        Raises:
            MultipartError: it is no form.
            BadInput, TooLarge: a part is not taken.
        """
        if self._parser.closed:
            return
        for event in self._parser.parse(chunk):
            if isinstance(event, MultipartSegment):
                self._begin(event.name)
            elif event:
                self._take(event)

    def finish(self) -> dict[str, str]:
        """The texts.

        Raises:
            BadInput: the form is not whole, or has no file.
        """
        try:
            self._parser.close()
        except MultipartError as error:
            raise BadInput(f"The form can't be read: {error}") from None
        if self._file_field not in self._names:
            there = ", ".join(self._names) or "no fields"
            raise BadInput(
                f"'{self._file_field}' is required, a file; the form has {there[:200]}", param=self._file_field
            )
        self.file_hash = self._digest.hexdigest()
        try:
            return {name: text.decode() for name, text in self._texts.items() if name in self._names}
        except UnicodeDecodeError:
            raise BadInput("The form holds text that is not UTF-8") from None

    def _begin(self, name: str) -> None:
        if name in self._names and (name == self._file_field or name in self._texts):
            if not name.endswith("[]"):
                raise BadInput(f"'{name}' is there twice", param=name)
            self._texts[name] += b","
        self._name = name
        self._names.append(name)

    def _take(self, data: bytes | bytearray) -> None:
        if self._name == self._file_field:
            self._size += len(data)
            if self._size > self._max_bytes:
                raise TooLarge(
                    f"The file is larger than {self._max_bytes} bytes, which is what the settings allow",
                    param=self._name,
                )
            self._digest.update(data)
            self._file.write(data)
        elif (text := self._texts.get(self._name)) is not None:
            text += data
            if len(text) > MAX_TEXT_BYTES:
                raise BadInput(f"'{self._name}' has more than {MAX_TEXT_BYTES} bytes", param=self._name)
