"""Models that misbehave, as a package of somebody else's would bring them."""

import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import msgspec

from dia_server.models.noise import NoiseOptions
from dia_server.models.noise import engine as noise
from dia_server.models.protocol import Engine, Manifest, NoSetup, Recordings, Sequential
from dia_server.script.text import Dialogue
from dia_server.tasks import Audio, Done, Event, Marks, Speak, Task, Word

SECOND = b"\x00\x00\x80\x3e" * 24_000


class RudeOptions(msgspec.Struct):
    pass


def manifest(name: str, function: str, **fields: Any) -> Manifest:
    return Manifest(
        name=name,
        description="Misbehaves.",
        capabilities=frozenset({"speak"}),
        engine=f"rude_models:{function}",
        licence="Apache-2.0",
        source="tests",
        **{"options": RudeOptions, "sample_rate": 24_000, **fields},
    )


RUDE = manifest("rude", "load_rude", word_times=True)
BROKEN = manifest("broken", "load_broken")
DEADLY = manifest("deadly", "load_deadly")

DUET = manifest(
    "duet",
    "load_duet",
    options=NoiseOptions,
    sample_rate=44_100,
    hop_length=441,
    dialogue=Dialogue(fewest_characters=5, most_characters=20, most_bytes=100),
    recordings=Recordings(most_seconds=2, most_seconds_together=3, needs_transcript=True),
    findings_advice="speak up",
    directable=frozenset({"audio_prompt"}),
)

ON_GPUS = frozenset({"cpu", "cuda"})
MIRROR = manifest("mirror", "load_mirror", devices=ON_GPUS)
GRAPHIC = manifest("graphic", "load_graphic", devices=ON_GPUS, options=NoiseOptions, sample_rate=44_100)


def load_rude(threads: int, setup: NoSetup) -> Engine:
    del threads, setup
    return Sequential(speak, "rude-1")


def load_broken(threads: int, setup: NoSetup) -> NoReturn:
    del threads, setup
    raise FileNotFoundError("the weights are not there; fetch them with `rude pull`")


def load_deadly(threads: int, setup: NoSetup) -> None:
    del threads, setup
    os.kill(os.getpid(), signal.SIGKILL)


def load_mirror(threads: int, setup: NoSetup) -> Engine:
    """Its fingerprint tells which GPUs its worker sees."""
    del threads, setup
    return Sequential(speak, f"sees {os.environ['CUDA_VISIBLE_DEVICES']!r}")


def load_duet(threads: int, setup: NoSetup) -> Engine:
    del threads, setup
    return Sequential(speak_on, "duet-1")


def speak_on(task: Speak) -> Iterator[Event]:
    """Noise that goes on from the segment before it: what that has left changes every sample."""
    if task.is_chained != bool(task.carry):
        raise ValueError("not what was left is here")
    if "raise" in task.text:
        raise ValueError("no such phoneme")
    seed = int.from_bytes(hashlib.blake2b(task.carry + task.seed.to_bytes(8), digest_size=7).digest())
    for event in noise.speak(msgspec.structs.replace(task, seed=seed)):
        if isinstance(event, Done):
            findings = ("silent",) if "hush" in task.text else ()
            carry = hashlib.blake2b(task.carry + task.text.encode(), digest_size=8).digest()
            yield msgspec.structs.replace(event, carry=carry, findings=findings)
        else:
            yield event


def load_graphic(threads: int, setup: NoSetup) -> Engine:
    """Noise, on a GPU as far as the stand-in for NVML goes; what it takes there, a stand-in for PyTorch says."""
    del threads, setup
    touch_gpu()
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        memory_allocated=lambda: 2 << 30,
        memory_reserved=lambda: 3 << 30,
        synchronize=lambda: None,
    )
    sys.modules["torch"] = SimpleNamespace(cuda=cuda)  # type: ignore[assignment]
    return Sequential(speak_graphically, "graphic-1")


def speak_graphically(task: Any) -> Iterator[Event]:
    for event in noise.speak(task):
        touch_gpu()
        yield event


def touch_gpu() -> None:
    """Raise what PyTorch raises when the GPU is gone."""
    import pynvml

    pynvml.nvmlInit()
    try:
        pynvml.nvmlDeviceGetHandleByUUID(os.environ["CUDA_VISIBLE_DEVICES"])
    except pynvml.NVMLError:
        raise RuntimeError("CUDA error: unspecified launch failure") from None


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
