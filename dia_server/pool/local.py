"""A worker as the pool sees it, here a process on this machine behind a pair of connected sockets."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from typing import cast

from dia_server.pool.messages import Answer, Deframer, Order, decode_answer, frame
from dia_server.pool.worker import main

_spawn = multiprocessing.get_context("spawn")


@contextmanager
def _signals_for_us_only() -> Iterator[None]:
    """A process started in this block never gets SIGINT and SIGTERM, which reach whole groups of processes.

    The server decides when its workers end. On Windows the worker ignores both signals itself, once it can.
    """
    if sys.platform == "win32":
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class LocalWorker(asyncio.Protocol):
    """Send orders, receive answers, kill; `dead` is done once the process can't answer any more."""

    def __init__(self, process: SpawnProcess, receive: Callable[[Answer], None]) -> None:
        self._process = process
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._deframer = Deframer()
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def start(cls, name: str, threads: int, gpu_uuid: str, receive: Callable[[Answer], None]) -> LocalWorker:
        """Spawn the process, with a GPU or with none; `receive` is called on the event loop with each answer."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _spawn.Process(target=main, args=(theirs, threads, gpu_uuid), name=name, daemon=True)
            # A few milliseconds; in a thread, a cancellation in the middle would leave a process that nobody knows.
            with _signals_for_us_only():
                process.start()
        worker = cls(process, receive)
        # Workers ignore SIGTERM, so that Python's own clean-up at exit would wait for them forever.
        weakref.finalize(worker, process.kill)
        await asyncio.get_running_loop().create_connection(lambda: worker, sock=ours)
        return worker

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
