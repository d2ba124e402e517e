"""The worker process: a reader thread takes orders, the main thread steps the engines.

It never waits for a listener, beats from its step loop, and dies with the server that started it.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from dia_server.errors import DiaServerError
from dia_server.models import memory as room
from dia_server.models.protocol import Engine, EngineLost
from dia_server.models.registry import load_engine
from dia_server.pool import gpu
from dia_server.pool.messages import (
    Answer,
    Beat,
    Cancel,
    Cancelled,
    Deframer,
    Load,
    LoadFailed,
    Order,
    Ready,
    Report,
    Run,
    Stop,
    decode_order,
    frame,
)
from dia_server.tasks import SAMPLE_BYTES, Audio, Ending, Event, Failed, Task

BEAT_SECONDS = 0.2
READ_BYTES = 65_536
PART_BYTES = 48_000

log = logging.getLogger(__name__)


def main(pipe: socket.socket, threads: int, gpu_uuid: str) -> None:
    """Serve orders from the pipe until told to stop; an empty UUID is no GPU."""
    # Where the server can't block them for us; see `pool.local`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    # Threads that spin while they wait for each other take ten times as long where others work on the same cores.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    gpu.see_only(gpu_uuid)
    Worker(pipe, threads).serve()


class Worker:
    """Engines by model, and the attempts in their slots."""

    def __init__(self, pipe: socket.socket, threads: int) -> None:
        self._pipe = pipe
        self._threads = threads
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._engines: dict[str, Engine] = {}
        self._model_of: dict[int, str] = {}
        self._last_sent = 0.0
        self._stopping = False

    def serve(self) -> None:
        """Run the step loop."""
        threading.Thread(target=self._read_orders, daemon=True, name="orders").start()
        while not self._stopping:
            self._follow_orders()
            for model in set(self._model_of.values()):
                self._step(model)
        for engine in self._engines.values():
            engine.close()

    def _read_orders(self) -> None:
        deframer = Deframer()
        try:
            while data := self._pipe.recv(READ_BYTES):
                for payload in deframer.feed(data):
                    self._orders.put(decode_order(payload))
        except OSError:
            pass
        finally:
            # The server is gone, perhaps in the middle of a long step: nothing here is worth finishing.
            os._exit(1)

    def _follow_orders(self) -> None:
        """Take all waiting orders; wait for one when there is nothing to step."""
        try:
            while not self._stopping:
                self._follow(self._orders.get(block=not self._model_of))
        except queue.Empty:
            pass

    def _follow(self, order: Order) -> None:
        match order:
            case Load(model=model, setup=setup, memory=memory):
                self._engine(model, setup, memory)
            case Run(attempt=attempt, task=task, setup=setup, memory=memory):
                engine = self._engine(task.model, setup, memory)
                if engine is not None:
                    self._admit(engine, attempt, task)
            case Cancel(attempt=attempt):
                model_name = self._model_of.pop(attempt, None)
                if model_name is not None:
                    self._engines[model_name].cancel(attempt)
                    self._send(Cancelled(attempt))
            case Stop():
                self._stopping = True

    def _admit(self, engine: Engine, attempt: int, task: Task) -> None:
        try:
            engine.admit(attempt, task)
        except Exception:
            log.exception("model %s can't take a task", task.model)
            _end_without_gpu()
            self._send(Report(attempt, Failed("The model can't take this task; the server's log says why")))
            return
        self._model_of[attempt] = task.model

    def _engine(self, model: str, setup: dict[str, Any], memory: int) -> Engine | None:
        if model not in self._engines:
            room.grant(memory)
            try:
                engine = load_engine(model, self._threads, setup)
            except DiaServerError as error:
                log.error("model %s can't be loaded: %s", model, error.message)
                _end_without_gpu()
                self._send(LoadFailed(model, error.message))
                return None
            except Exception as error:
                log.exception("model %s can't be loaded", model)
                _end_without_gpu()
                self._send(LoadFailed(model, f"{type(error).__name__}: {error}"))
                return None
            self._engines[model] = engine
            self._send(Ready(model, engine.slots, engine.fingerprint, gpu.memory()))
        return self._engines[model]

    def _step(self, model: str) -> None:
        ended = False
        for attempt, event in self._stepped(model):
            if isinstance(event, Failed):
                _end_without_gpu()
            if isinstance(event, Ending):
                del self._model_of[attempt]
                ended = True
            for part in _parts(event):
                self._send(Report(attempt, part))
        if (ended and gpu.is_there()) or time.monotonic() - self._last_sent > BEAT_SECONDS:
            self._send(Beat(gpu.memory()))

    def _stepped(self, model: str) -> Iterator[tuple[int, Event]]:
        try:
            yield from self._engines[model].step()
        except EngineLost as lost:
            log.error("model %s is lost: %s", model, lost)
            os._exit(1)

    def _send(self, answer: Answer) -> None:
        try:
            self._pipe.sendall(frame(answer))
        except OSError:
            os._exit(1)
        self._last_sent = time.monotonic()


def _end_without_gpu() -> None:
    """End this process if what failed was its GPU, so that its tasks run again elsewhere; else do nothing."""
    if gpu.is_lost():
        log.error("the GPU is lost")
        # What CUDA does at an orderly end may hang.
        os._exit(1)


def _parts(event: Event) -> Iterator[Event]:
    """Audio in parts of half a second, so that the server encodes the first ones while the rest is on its way."""
    if not isinstance(event, Audio):
        yield event
        return
    for start in range(0, len(event.pcm), PART_BYTES):
        yield Audio(event.first_sample + start // SAMPLE_BYTES, event.pcm[start : start + PART_BYTES])
