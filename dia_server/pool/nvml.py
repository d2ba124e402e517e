"""What NVML says of the GPUs: NVIDIA's own library, which needs no CUDA. Any call may fail, or hang with the driver."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

# How CUDA, and so everything built on it, is told which GPUs there are.
VISIBLE = "CUDA_VISIBLE_DEVICES"

# A driver that nothing else keeps awake initialises each GPU anew, for seconds.
FIND_SECONDS = 60.0
SAMPLE_SECONDS = 1.0
# No sample for that long: the driver hangs.
STALE_SECONDS = 5.0


class NoAnswer(Exception):
    """NVML can't say; the message says why."""


class NoDriver(NoAnswer):
    """There is nothing to ask, which is well on a machine without a GPU."""


class Card(msgspec.Struct, frozen=True):
    """A GPU of this machine, with its bytes, free ones and all; one with a `problem` has no more than that."""

    uuid: str = ""
    kind: str = ""
    problem: str = ""
    free: int = 0
    total: int = 0


class Reading(msgspec.Struct, frozen=True):
    """How a GPU was a moment ago: bytes in all and free, 0 where it has no memory of its own, or why it can't say."""

    total: int = 0
    free: int = 0
    problem: str = ""


def find_cards() -> list[Card]:
    """All GPUs in the order of the PCI bus.

    Raises:
        NoAnswer: there is no driver, or it doesn't work.
    """
    answers: SimpleQueue[list[Card] | NoAnswer] = SimpleQueue()

    def ask() -> None:
        try:
            with _session() as pynvml:
                answers.put([_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())])
        except NoAnswer as problem:
            answers.put(problem)

    threading.Thread(target=ask, daemon=True, name="nvml").start()
    try:
        answer = answers.get(timeout=FIND_SECONDS)
    except Empty:
        raise NoAnswer(f"NVIDIA's driver has not answered for {FIND_SECONDS:g} s") from None
    if isinstance(answer, NoAnswer):
        raise answer
    return answer


def read(uuid: str) -> Reading:
    """One GPU's state; hangs where the driver does."""
    try:
        with _session() as pynvml:
            return _reading(pynvml, uuid)
    except NoAnswer as problem:
        return Reading(problem=str(problem))


class Watch:
    """Asks for the state of some GPUs each second, on a thread of its own, so that nobody else hangs with a driver."""

    def __init__(self, uuids: Sequence[str]) -> None:
        self._uuids = uuids
        self._readings: dict[str, Reading] = {}
        self._sampled = time.monotonic()
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin, if there is anything to watch."""
        if self._uuids:
            threading.Thread(target=self._run, daemon=True, name="nvml").start()

    def stop(self) -> None:
        """End after the call under way."""
        self._stopped.set()

    def reading(self, uuid: str) -> Reading | None:
        """The last state of a GPU; None before the first, and while the driver hangs."""
        is_stale = time.monotonic() - self._sampled > STALE_SECONDS
        return None if is_stale else self._readings.get(uuid)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with _session() as pynvml:
                    # A session never sees again what it has lost.
                    while self._sample({uuid: _reading(pynvml, uuid) for uuid in self._uuids}):
                        pass
            except NoAnswer as problem:
                self._sample(dict.fromkeys(self._uuids, Reading(problem=str(problem))))

    def _sample(self, readings: dict[str, Reading]) -> bool:
        """Keep them and wait; whether to go on in the same session."""
        self._readings, self._sampled = readings, time.monotonic()
        stopped = self._stopped.wait(SAMPLE_SECONDS)
        return not stopped and not any(reading.problem for reading in readings.values())


@contextmanager
def _session() -> Iterator[Any]:
    """The library, initialised.

    Raises:
        NoAnswer: it can't be, or a call within the block fails.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        raise NoDriver("NVIDIA's driver is not installed") from None
    except pynvml.NVMLError as error:
        raise NoAnswer(f"NVIDIA's driver says '{error}'") from None
    try:
        yield pynvml
    except pynvml.NVMLError as error:
        raise NoAnswer(f"NVIDIA's driver says '{error}'") from None
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _card(pynvml: Any, index: int) -> Card:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid, kind = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
        reading = _reading(pynvml, uuid)
        return Card(uuid, kind, free=reading.free, total=reading.total)
    except pynvml.NVMLError as error:
        return Card(problem=str(error))


def _reading(pynvml: Any, uuid: str) -> Reading:
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    except pynvml.NVMLError_NotSupported:
        return Reading()
    except pynvml.NVMLError as error:
        return Reading(problem=str(error))
    return Reading(memory.total, memory.free)
