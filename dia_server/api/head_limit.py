"""A bound on the head of a request, which uvicorn's fast parser doesn't have."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def protocol_with_head_limit(limit: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, answering 400 and hanging up once a request line with its headers exceeds `limit` bytes."""

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _is_in_body = False

        def data_received(self, data: bytes) -> None:
            self._head_bytes += len(data)
            super().data_received(data)
            if self._head_bytes > limit and not self._is_in_body and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is larger than {limit} bytes")

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._is_in_body, self._head_bytes = True, 0

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._is_in_body, self._head_bytes = False, 0

    return BoundedProtocol
