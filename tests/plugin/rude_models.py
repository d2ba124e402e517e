"""Models that misbehave, as a package of somebody else's would bring them."""

import os
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

import msgspec

from dia_server.models.protocol import Engine, Manifest, Sequential
from dia_server.tasks import Audio, Done, Event, Marks, Task, Word

SECOND = b"\x00\x00\x80\x3e" * 24_000


class RudeOptions(msgspec.Struct):
    pass


def manifest(name: str, function: str) -> Manifest:
    return Manifest(
        name=name,
        description="Misbehaves.",
        capabilities=frozenset({"speak"}),
        engine=f"rude_models:{function}",
        options=RudeOptions,
        sample_rate=24_000,
        licence="Apache-2.0",
        source="tests",
    )


RUDE = manifest("rude", "load_rude")
BROKEN = manifest("broken", "load_broken")
DEADLY = manifest("deadly", "load_deadly")


def load_rude(threads: int) -> Engine:
    del threads
    return Sequential(speak, "rude-1")


def load_broken(threads: int) -> NoReturn:
    del threads
    raise FileNotFoundError("the weights are not there; fetch them with `rude pull`")


def load_deadly(threads: int) -> None:
    del threads
    os.kill(os.getpid(), signal.SIGKILL)


def speak(task: Task) -> Iterator[Event]:
    word = task.text.split()[0].strip(".").lower()
    if word == "silence":
        yield Done(0)
        return
    if word == "think":
        while True:
            time.sleep(0.01)
            yield Audio(0, b"")
    yield Marks((Word(task.text, 0, 24_000),))
    yield Audio(0, SECOND)
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "hang":
        time.sleep(1000)
    if word == "raise":
        raise ValueError("no such phoneme")
    if word == "lie":
        yield Audio(99, SECOND)
    if word == "drone":
        first = 24_000
        while True:
            time.sleep(0.01)
            yield Audio(first, SECOND)
            first += 24_000
    yield Done(24_000)
