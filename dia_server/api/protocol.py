"""Bounds on a connection that uvicorn doesn't have: the size of a head, and the patience with a silent client."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dia_server.api.dialect import DIALECTS
from dia_server.errors import BadInput
from dia_server.settings import Settings

_FORM = b"multipart/form-data"


def bounded_protocol(settings: Settings) -> type[HttpToolsProtocol]:
    """uvicorn's protocol within `max_head_bytes`, `request_timeout`, `upload_timeout` and `write_timeout`."""

    class BoundedProtocol(_PatientProtocol):
        bounds = settings

    return BoundedProtocol


class _PatientProtocol(HttpToolsProtocol):
    bounds: Settings

    _head_bytes = 0
    _is_in_body = False
    _patience = 0.0
    _arrival: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._arrival is None:
            self._await_request()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.bounds.max_head_bytes and not self._is_in_body and not self.transport.is_closing():
            self.send_400_response(f"The head of the request is larger than {self.bounds.max_head_bytes} bytes")

    def on_headers_complete(self) -> None:
        # What came in one read with the body is not in the count yet.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.bounds.max_head_bytes:
            self.send_400_response(f"The head of the request is larger than {self.bounds.max_head_bytes} bytes")
            return
        super().on_headers_complete()
        self._is_in_body, self._head_bytes = True, 0
        if any(self._brings_recording(name, value) for name, value in self.headers):
            self._stop_waiting()
            self._await_request(self.bounds.upload_timeout)

    def _brings_recording(self, name: bytes, value: bytes) -> bool:
        """Whether a header says that the body is a form, or that it is as large as no other JSON."""
        if name == b"content-length":
            return value.isdigit() and int(value) > self.bounds.max_body_bytes
        return name == b"content-type" and value.lower().startswith(_FORM)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_in_body, self._head_bytes = False, 0
        self._stop_waiting()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _await_request(self, patience: float | None = None) -> None:
        self._patience = patience or self.bounds.request_timeout
        self._arrival = self.loop.call_later(self._patience, self._request_is_late)

    def _stop_waiting(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _request_is_late(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        is_answering = cycle is not None and not cycle.more_body and not cycle.response_complete
        if self.flow.read_paused or is_answering:
            # The next request waits for us, not we for it.
            self._await_request()
        elif self._head_bytes or (cycle is not None and self._is_in_body and not cycle.response_started):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"The request has not arrived within {self._patience:g} s")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Instead of uvicorn's, which is plain text."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        # The path may not be known yet; this envelope has what every family's clients look for.
        body = msgspec.json.encode(DIALECTS[0].envelope(BadInput(message), status))
        head = f"HTTP/1.1 {status} {status.phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _await_reader(self, waiting_bytes: int) -> None:
        self._reading = self.loop.call_later(self.bounds.write_timeout, self._reader_is_late, waiting_bytes)

    def _reader_is_late(self, waiting_bytes: int) -> None:
        still_waiting = self.transport.get_write_buffer_size()
        if still_waiting < waiting_bytes:
            self._await_reader(still_waiting)
        else:
            self.transport.abort()
