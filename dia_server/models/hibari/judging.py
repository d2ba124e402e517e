"""What a text's reading came to, in numbers; and readings that came out wrong made anew, before any of them is sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np

from dia_server.audio.samples import Samples
from dia_server.models.hibari import MANIFEST, HibariOptions
from dia_server.models.hibari.network import Floats
from dia_server.models.hibari.steering import VOICED_HZ
from dia_server.tasks import EMOTIONS, Done, Event, Speak, Word, derive_seed

# A sound whose peak lies below, -60 dB of full scale, is not heard.
SILENCE = 1e-3

# All events, the last one a `Done` with a `Reading`.
Say = Callable[[Speak], Iterator[Event]]


class Said(NamedTuple):
    """A sentence as it was said.

    Attributes:
        samples: float32.
        words: where in them the words are.
        plain_seconds: how long the model's first stage makes it at the asked speed, before anything else changes that.
        phonemes: how many there are.
        f0: in Hz for each frame, near 0 without a voice.
    """

    samples: Samples
    words: tuple[Word, ...]
    plain_seconds: float
    phonemes: int
    f0: Floats


class Chosen(NamedTuple):
    """What is sent, after how many attempts, and the names of what is wrong with it."""

    events: Iterator[Event]
    attempts: int
    findings: tuple[str, ...]


class Reading(msgspec.Struct):
    """What a text's sentences came to, together; it goes as `Done.value` from the model to here."""

    phonemes: int = 0
    plain_seconds: float = 0.0
    seconds: float = 0.0
    peak: float = 0.0
    f0: list[float] = []

    def add(self, said: Said) -> None:
        """Count a sentence."""
        self.phonemes += said.phonemes
        self.plain_seconds += said.plain_seconds
        self.seconds += len(said.samples) / MANIFEST.sample_rate
        self.peak = max(self.peak, float(np.max(np.abs(said.samples), initial=0.0)))
        self.f0 += said.f0[said.f0 > VOICED_HZ].tolist()

    @property
    def ratio(self) -> float:
        """How long it is against the plain reading; what can't be heard is as bad as can be."""
        return self.seconds / self.plain_seconds if self.peak > SILENCE else math.inf

    def findings(self, highest_ratio: float) -> tuple[str, ...]:
        """The names of what is wrong with it, as model `dia` has them."""
        if self.peak <= SILENCE:
            return ("silent",)
        return ("runaway",) if self.ratio > highest_ratio else ()

    def report(self, task: Speak, attempts: int, took: float) -> dict[str, Any]:
        """What `verbose` tells."""
        weights = zip(EMOTIONS, task.delivery.emotion, strict=False)
        return {
            "phonemes": self.phonemes,
            "predicted_seconds": round(self.plain_seconds, 3),
            "seconds": round(self.seconds, 3),
            "f0_hz": round(float(np.median(self.f0)), 1) if self.f0 else None,
            "emotion": {name: round(weight, 3) for name, weight in weights if weight},
            "attempts": attempts,
            "took_seconds": round(took, 3),
        }


def judged(task: Speak, options: HibariOptions, say: Say) -> Iterator[Event | None]:
    """The events of a task that `say` says, by its options; None is no event, but a sign of progress."""
    started = time.perf_counter()
    chosen = Chosen(say(task), 1, ())
    if options.retry_badcase:
        chosen = yield from _best(task, options, say)
    for event in chosen.events:
        if isinstance(event, Done):
            took = time.perf_counter() - started
            report = event.value.report(task, chosen.attempts, took) if options.verbose else None
            yield msgspec.structs.replace(event, value=report, findings=chosen.findings)
        else:
            yield event


def _best(task: Speak, options: HibariOptions, say: Say) -> Generator[None, None, Chosen]:
    """The first attempt that isn't bad, else the shortest that can be heard."""
    threshold, attempts = options.retry_badcase_ratio_threshold, []
    for number in range(options.retry_badcase_max_times + 1):
        events, reading = [], Reading()
        for event in say(task if number == 0 else _again(task, number)):
            events.append(event)
            reading = event.value if isinstance(event, Done) else reading
            yield None
        attempts.append((reading, events))
        if not reading.findings(threshold):
            break
    # One that isn't bad is shorter than those before it.
    reading, events = min(attempts, key=lambda each: each[0].ratio)
    return Chosen(iter(events), len(attempts), reading.findings(threshold))


def _again(task: Speak, attempt: int) -> Speak:
    return msgspec.structs.replace(task, seed=derive_seed(task.seed, 0, attempt))
