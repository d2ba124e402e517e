"""All stages of a clip in a row: blocks, tempo, sample rate, format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Protocol

import numpy as np

from dia_server.audio.encode import FORMATS, Encoder
from dia_server.audio.resample import Resampler
from dia_server.audio.samples import Samples
from dia_server.audio.tempo import Tempo
from dia_server.tasks import SAMPLE_BYTES

# The tempo stage's output depends on how its input was cut, so the cuts are counted from the clip's first sample.
BLOCK_SAMPLES = 2_400


class Stage(Protocol):
    """Turns samples into other samples, keeping some for later."""

    def feed(self, samples: Samples) -> Samples:
        """What `samples` complete."""

    def finish(self) -> Samples:
        """The rest."""


class ClipRenderer:
    """Makes the bytes of one clip out of its samples.

    The joined output doesn't depend on how the input was cut. Calls take a while (mp3: 4 ms per second of audio), so
    they belong into a thread, one at a time but not always the same one.

    Attributes:
        light: calls take so little that they need no thread.
    """

    def __init__(self, sample_rate: int, speed: float, audio_format: str) -> None:
        """`sample_rate` of the input in Hz; `speed` from 0.25 to 4; a key of `FORMATS`."""
        self._format = FORMATS[audio_format]
        self._rate = rate = self._format.rate_for(sample_rate)
        self._stages: list[Stage] = []
        self._is_cut = speed != 1
        if self._is_cut:
            self._stages.append(Tempo(sample_rate, speed))
        if rate != sample_rate:
            self._stages.append(Resampler(sample_rate, rate))
        self.light = self._format.light and not self._stages
        self._seconds_per_sample = 1 / (sample_rate * speed)
        self._samples_in = 0
        self._waiting = b""

    @cached_property
    def _encoder(self) -> Encoder:
        # Made when first needed: that takes some milliseconds, and for flac 7 MB, which a waiting clip should not hold.
        return self._format.encoder(self._rate)

    @property
    def seconds(self) -> float:
        """How long what was fed so far sounds at the clip's speed; what a lossy codec adds isn't counted."""
        return self._samples_in * self._seconds_per_sample

    def feed(self, pcm: bytes) -> bytes:
        """The encoded bytes that `pcm` completes, possibly none; mono float32 little-endian, whole samples.

        Raises:
            ValueError: `pcm` ends within a sample.
        """
        if len(pcm) % SAMPLE_BYTES:
            raise ValueError(f"{len(pcm)} bytes are no whole number of samples")
        self._samples_in += len(pcm) // SAMPLE_BYTES
        samples = np.frombuffer(self._waiting + pcm, "<f4")
        if not self._is_cut:
            return self._render(samples, self._stages)
        whole = len(samples) - len(samples) % BLOCK_SAMPLES
        self._waiting = samples[whole:].tobytes()
        return b"".join(self._render(block, self._stages) for block in samples[:whole].reshape(-1, BLOCK_SAMPLES))

    def finish(self) -> bytes:
        """The rest of the file; call it once, after the last `feed`."""
        return b"".join(self._finish())

    def _finish(self) -> Iterator[bytes]:
        yield self._render(np.frombuffer(self._waiting, "<f4"), self._stages)
        for number, stage in enumerate(self._stages, start=1):
            yield self._render(stage.finish(), self._stages[number:])
        yield self._encoder.finish()

    def _render(self, samples: Samples, stages: list[Stage]) -> bytes:
        for stage in stages:
            samples = stage.feed(samples)
        return self._encoder.encode(samples)
