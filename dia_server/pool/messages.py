"""What the pool and a worker say to each other: msgpack structs behind a four-byte length."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from dia_server.tasks import Event, Task

_LENGTH = struct.Struct("!I")


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load a model ahead of its first task; `setup` are its own settings, as plain data.

    `memory` are the bytes that are there for it, 0 if nobody knows.
    """

    model: str
    setup: dict[str, Any]
    memory: int


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Run a task, loading its model by `setup` if need be, as `Load` does; `attempt` names it in every answer."""

    attempt: int
    task: Task
    setup: dict[str, Any]
    memory: int


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop an attempt; answered by `Cancelled` unless it had ended already."""

    attempt: int


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the process."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A model is loaded; `memory` as in `Beat`."""

    model: str
    slots: int
    fingerprint: str
    memory: tuple[int, int] = (0, 0)


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    """A model can't be loaded; the attempts that wanted it are dropped."""

    model: str
    message: str


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Something came of an attempt."""

    attempt: int
    event: Event


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """A cancelled attempt has left its slot."""

    attempt: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The step loop is turning; `memory` is what the worker has taken and keeps of its GPU, in bytes."""

    memory: tuple[int, int] = (0, 0)


Order = Load | Run | Cancel | Stop
Answer = Ready | LoadFailed | Report | Cancelled | Beat

_encoder = msgspec.msgpack.Encoder()
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def frame(message: Order | Answer) -> bytearray:
    """The message as it goes over the pipe."""
    buffer = bytearray(_LENGTH.size)
    _encoder.encode_into(message, buffer, _LENGTH.size)
    _LENGTH.pack_into(buffer, 0, len(buffer) - _LENGTH.size)
    return buffer


class Deframer:
    """Cuts a byte stream back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes."""
        self._buffer += data
        payloads, start = [], 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(memoryview(self._buffer)[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return payloads
