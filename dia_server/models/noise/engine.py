"""White noise at a speaking pace."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import msgspec
import numpy as np

from dia_server.models.fingerprint import fingerprint
from dia_server.models.noise import MANIFEST, NoiseOptions
from dia_server.models.protocol import Engine, NoSetup, Sequential
from dia_server.tasks import Audio, Done, Event, Speak

CHARACTERS_PER_SECOND = 15
LEVEL = 0.1


def load(threads: int, setup: NoSetup) -> Engine:
    """A ready engine; nothing to load."""
    del setup
    return Sequential(
        speak,
        fingerprint(
            "noise", packages=("numpy",), revision="1", dtype="float32", threads=threads, slots=Sequential.slots
        ),
    )


def speak(task: Speak) -> Iterator[Event]:
    """Noise for the task's text, at 15 characters a second over the pace asked for."""
    options = msgspec.convert(task.options, NoiseOptions)
    count = round(len(task.text) / CHARACTERS_PER_SECOND / task.delivery.speed * MANIFEST.sample_rate)
    samples = np.random.default_rng(task.seed).standard_normal(count, dtype=np.float32) * np.float32(LEVEL)
    cuts = random.Random(os.urandom(8))  # noqa: S311 - sizes of pieces, not secrets
    first = 0
    while first < count:
        size = options.event_samples or count
        size = cuts.randint(1, size) if options.ragged else size
        time.sleep(options.event_seconds)
        yield Audio(first_sample=first, pcm=samples[first : first + size].tobytes())
        first = min(first + size, count)
    time.sleep(options.event_seconds)
    yield Done(samples=count)
