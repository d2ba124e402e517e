"""A worker as the pool sees it, here a process on this machine behind a pair of connected sockets."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import weakref
from collections.abc import Callable
from typing import cast

from dia_server.pool.messages import Answer, Deframer, Order, decode_answer, frame
from dia_server.pool.worker import main

_spawn = multiprocessing.get_context("spawn")


class LocalWorker(asyncio.Protocol):
    """Send orders, receive answers, kill; `dead` is done once the process can't answer any more."""

    def __init__(self, receive: Callable[[Answer], None]) -> None:
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._deframer = Deframer()
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def start(cls, name: str, threads: int, receive: Callable[[Answer], None]) -> LocalWorker:
        """Spawn the process; `receive` is called on the event loop with each answer."""
        ours, theirs = socket.socketpair()
        worker = cls(receive)
        worker._process = _spawn.Process(target=main, args=(theirs, threads), name=name, daemon=True)
        await asyncio.to_thread(worker._process.start)
        theirs.close()
        # Workers ignore SIGTERM, so that Python's own clean-up at exit would wait for them forever.
        weakref.finalize(worker, worker._process.kill)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        return worker

    _process: multiprocessing.context.SpawnProcess

    @property
    def pid(self) -> int | None:
        """The process id."""
        return self._process.pid

    def send(self, order: Order) -> None:
        """Hand over an order; lost without a word when the worker is dead, which `dead` tells."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(order))

    def kill(self) -> None:
        """End the process at once; SIGTERM would not end a stopped one."""
        self._process.kill()

    async def reap(self, patience: float = 0.0) -> None:
        """Kill the process unless it ends by itself within `patience` seconds, and wait until it is gone."""
        await asyncio.to_thread(self._process.join, patience)
        self.kill()
        await asyncio.to_thread(self._process.join)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without being its subclass

    def data_received(self, data: bytes) -> None:
        for payload in self._deframer.feed(data):
            self._receive(decode_answer(payload))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self.dead.done():
            self.dead.set_result(None)
