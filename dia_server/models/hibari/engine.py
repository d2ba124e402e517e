"""The hibari-tts package as an engine: text to phonemes to spectra to samples, one clause group a step."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hibari import Hibari

from dia_server.models.fingerprint import fingerprint
from dia_server.models.protocol import Engine, Sequential
from dia_server.tasks import Audio, Done, Event, Task

# hibari-tts 0.2.1 fails on the digits in parentheses, and takes `[word](/sounds/)` for spelled-out phonemes.
# It also fails on numbers of 37 digits; those that nobody says as a number are spelled out.
LONG_NUMBER = re.compile(r"\d{16,}")
READABLE = {chr(0x2474 + number): f"({number + 1})" for number in range(9)} | {"](/": "] (/"}

PACKAGES = ("hibari-tts", "onnxruntime", "numpy", "scipy")


def load(threads: int) -> Engine:
    """Load the graph and the pronunciation tables, and say one word, since the first one costs half a second."""
    model = Hibari(threads=threads)
    model("Ready.", seed=0)
    revision = hashlib.sha256(Path(model.model_path).read_bytes()).hexdigest()
    return Sequential(
        lambda task: speak(model, task),
        fingerprint(
            "hibari", packages=PACKAGES, revision=revision, dtype="int8", threads=threads, slots=Sequential.slots
        ),
    )


def speak(model: Hibari, task: Task) -> Iterator[Event]:
    """Read the task's text; samples are float32 at 24 kHz, the seed drives the noise branch only."""
    text = LONG_NUMBER.sub(lambda number: " ".join(number[0]), task.text)
    for unreadable, readable in READABLE.items():
        text = text.replace(unreadable, readable)
    count = 0
    for samples in model.stream(text, speed=task.delivery.speed, seed=task.seed):
        if len(samples):
            yield Audio(first_sample=count, pcm=np.ascontiguousarray(samples, dtype="<f4").tobytes())
            count += len(samples)
    yield Done(samples=count)
