"""Writing wav files for our own workers to read."""

from __future__ import annotations

import wave
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dia_server.audio.resample import Resampler
from dia_server.audio.samples import Samples, to_int16


class WavWriter:
    """A mono 16-bit wav file that takes samples at one rate and keeps them at another. Use as a context manager."""

    def __init__(self, path: Path, from_rate: int, to_rate: int) -> None:
        """Rates in Hz; a file at `path` is overwritten."""
        self._resampler = Resampler(from_rate, to_rate)
        self._file = wave.open(str(path), "wb")  # noqa: SIM115 - closed by `__exit__`
        self._file.setparams((1, 2, to_rate, 0, "NONE", ""))

    def write(self, pcm: bytes) -> None:
        """Add mono float32 little-endian samples; whole ones."""
        self._append(self._resampler.feed(np.frombuffer(pcm, "<f4")))

    def _append(self, samples: Samples) -> None:
        self._file.writeframes(to_int16(samples).astype("<i2", copy=False).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            self._append(self._resampler.finish())
