"""What is compared between voices: spectral envelopes and F0, frame by frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from dia_server.audio.samples import Samples
from dia_server.models.matching.pitch import track

Floats = NDArray[np.float32]

SAMPLE_RATE = 24_000
HOP = 300
BINS = 601
BIN_HZ = 20.0

# Of CheapTrick: 2,048 bins, so that its window holds three periods of a voice of 55 Hz.
LOWEST_HZ = 55.0
MEL_BANDS = 40
MEL_RANGE_HZ = (60.0, 8_000.0)
FLOOR = 1e-10


class Frames(NamedTuple):
    """Some seconds of a voice, 80 frames a second; frame n lies around sample 300 n at 24 kHz.

    Attributes:
        envelopes: log magnitude at 601 frequencies, 20 Hz apart, shape (frames, 601).
        f0: in Hz, 0 without a voice, shape (frames,).
    """

    envelopes: Floats
    f0: Floats

    @property
    def is_voiced(self) -> NDArray[np.bool_]:
        """Whether a frame has a voice, shape (frames,)."""
        return self.f0 > 0


def analyse(samples: Samples, sample_rate: int) -> Frames:
    """The frames of a mono recording; `sample_rate` in Hz."""
    sound = soxr.resample(samples, sample_rate, SAMPLE_RATE)
    f0 = track(sound, SAMPLE_RATE, HOP)
    return Frames(envelopes(sound, f0), f0)


def envelopes(samples: Samples, f0: Floats) -> Floats:
    """Log magnitudes of the frames of 24 kHz sound, shape (frames, 601), without the harmonics of `f0`.

    By CheapTrick: M. Morise, "CheapTrick, a spectral envelope estimator for high-quality speech synthesis" (Speech
    Communication 67, 2015), as WORLD implements it.
    """
    import pyworld  # not with the module: only clones need it

    if not len(f0):
        return np.zeros((0, BINS), np.float32)
    times = np.arange(len(f0)) * (HOP / SAMPLE_RATE)
    power = pyworld.cheaptrick(
        samples.astype(np.float64), f0.astype(np.float64), times, SAMPLE_RATE, f0_floor=LOWEST_HZ
    )
    place = np.arange(BINS) * (BIN_HZ * 2 * (power.shape[1] - 1) / SAMPLE_RATE)
    below = np.minimum(place.astype(int), power.shape[1] - 2)
    logs = 0.5 * np.log(power + FLOOR**2)
    between = (place - below)[np.newaxis]
    drawn: Floats = (logs[:, below] * (1 - between) + logs[:, below + 1] * between).astype(np.float32)
    return drawn


def cepstra(spectra: Floats, count: int) -> Floats:
    """The first mel cepstra of log magnitudes, shape (frames, count)."""
    mel = 0.5 * np.log(np.exp(2 * spectra) @ _MEL.T + np.float32(FLOOR))
    cosines: Floats = mel @ _COSINES[:, :count]
    return cosines


def _mel_bands() -> Floats:
    """Triangles with a sum of 1, shape (40, 601)."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in MEL_RANGE_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    hertz = np.arange(BINS) * BIN_HZ
    rising = (hertz - edges[:-2, np.newaxis]) / np.diff(edges)[:-1, np.newaxis]
    falling = (edges[2:, np.newaxis] - hertz) / np.diff(edges)[1:, np.newaxis]
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    bands: Floats = (triangles / triangles.sum(axis=1, keepdims=True)).astype(np.float32)
    return bands


def _cosines() -> Floats:
    """The orthonormal discrete cosine transform, shape (40, 40)."""
    bands = np.arange(MEL_BANDS)
    waves = np.cos(np.pi * np.outer(bands + 0.5, bands) / MEL_BANDS) * np.sqrt(2 / MEL_BANDS)
    waves[:, 0] /= np.sqrt(2)
    cosines: Floats = waves.astype(np.float32)
    return cosines


_MEL = _mel_bands()
_COSINES = _cosines()
