"""What can be measured of how a sentence is said, on its finished sound alone.

F0 is found by autocorrelation (`dia_server/models/matching/pitch.py`, with which the server reads recordings; WORLD's
dio loses the steep parts of lively melodies, and its harvest takes ten times as long); everything else is a few lines
of NumPy. Nothing here knows what the model was told.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from dia_server.models.matching.pitch import track

Reals = NDArray[np.float64]

RATE = 24_000
HOP, WINDOW = 240, 720
HOP_SECONDS = HOP / RATE
SILENCE_DB = 30.0
SHORTEST_PAUSE = 0.1
HIGHEST_HZ = 650.0
# Further from the median lie the tracker's mistakes.
WIDEST_SEMITONES = 10.0
FINAL_SECONDS = 0.25
TILT_BANDS_HZ = 250.0 * 2 ** (np.arange(14) / 3)
MEL_BANDS, CEPSTRA, MEL_RANGE_HZ = 26, 13, (100.0, 8_000.0)
ROLLOFF = 0.85
MOMENTS = CEPSTRA - 1 + 6
FLOOR = 1e-10


class Measures(NamedTuple):
    """Of one sentence.

    Attributes:
        pitch: mean F0, in semitones above 1 Hz.
        range: standard deviation of F0, in semitones.
        ending: F0 of the last quarter of a second with a voice above the mean, in semitones.
        speech: seconds from the first sound to the last, without pauses.
        pauses: seconds of silence in between.
        level: of speech, in dB of full scale.
        dynamics: standard deviation of the level of loud frames, in dB.
        tilt: of the voiced spectrum, in dB per octave from 250 Hz to 5 kHz.
        harmonicity: how much tone is above noise in voiced frames, in dB.
        jitter: mean change of F0's slope from frame to frame, in per cent of F0.
    """

    pitch: float
    range: float
    ending: float
    speech: float
    pauses: float
    level: float
    dynamics: float
    tilt: float
    harmonicity: float
    jitter: float


class Sound:
    """A sentence, cut into frames of 30 ms, 10 ms apart."""

    def __init__(self, samples: Reals, sample_rate: int) -> None:
        self.samples = soxr.resample(np.asarray(samples, np.float64), sample_rate, RATE)
        count = len(self.samples) // HOP
        padded = np.pad(self.samples, WINDOW // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count]
        self.power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW), 1024)) ** 2 + FLOOR
        self.hertz = np.fft.rfftfreq(1024, 1 / RATE)
        self.level = 10 * np.log10(np.mean(frames**2, axis=1) + FLOOR)
        self.is_loud = self.level > np.percentile(self.level, 97) - SILENCE_DB
        self.f0 = track(self.samples, RATE, HOP, HIGHEST_HZ).astype(np.float64)
        self.is_voiced = (self.f0 > 0) & self.is_loud

    def harmonicity(self) -> Reals:
        """In dB, for each voiced frame: the autocorrelation one period on (P. Boersma, 1993), in 40 ms."""
        size = 960
        padded = np.pad(self.samples, size // 2)
        places = np.flatnonzero(self.is_voiced)
        frames = np.lib.stride_tricks.sliding_window_view(padded, size)[places * HOP]
        window = np.hanning(size)
        of_frames, of_window = (
            np.fft.irfft(np.abs(np.fft.rfft(signal, 4096)) ** 2)[..., :size]
            for signal in ((frames - frames.mean(axis=1, keepdims=True)) * window, window)
        )
        correlation = of_frames / of_frames[:, :1] / (of_window / of_window[0])
        lags = np.rint(RATE / self.f0[places]).astype(int)[:, np.newaxis] + np.arange(-3, 4)
        best = np.take_along_axis(correlation, np.clip(lags, 1, size - 1), axis=1).max(axis=1)
        best = np.clip(best, 1e-3, 1 - 1e-4)
        return np.asarray(10 * np.log10(best / (1 - best)))


def measure(sound: Sound) -> Measures:
    """All measures of a sentence that has a voice."""
    semitones = 12 * np.log2(np.maximum(sound.f0, 1.0))
    middle = np.median(semitones[sound.is_voiced])
    steady = sound.is_voiced & (np.abs(semitones - middle) < WIDEST_SEMITONES)
    melody = semitones[steady]
    inside = np.flatnonzero(sound.is_loud)
    span = sound.is_loud[inside[0] : inside[-1] + 1]
    pauses = sum(length for length in _silences(span) if length * HOP_SECONDS >= SHORTEST_PAUSE) * HOP_SECONDS
    ending = melody[-round(FINAL_SECONDS / HOP_SECONDS) :]
    return Measures(
        pitch=float(melody.mean()),
        range=float(melody.std()),
        ending=float(np.median(ending) - melody.mean()),
        speech=len(span) * HOP_SECONDS - pauses,
        pauses=pauses,
        level=float(10 * np.log10(np.mean(10 ** (sound.level[sound.is_loud] / 10)))),
        dynamics=float(sound.level[sound.is_loud].std()),
        tilt=_tilt(sound),
        harmonicity=float(sound.harmonicity().mean()),
        jitter=_jitter(sound.f0, steady),
    )


def _silences(is_loud: NDArray[np.bool_]) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_loud, [True]]).astype(int)))
    return [int(length) for length in (edges[1::2] - edges[::2])]


def _tilt(sound: Sound) -> float:
    spectrum = sound.power[sound.is_voiced].mean(axis=0)
    edge = 2 ** (1 / 6)
    bands = [
        10 * np.log10(spectrum[(sound.hertz >= centre / edge) & (sound.hertz < centre * edge)].mean())
        for centre in TILT_BANDS_HZ
    ]
    return float(np.polyfit(np.log2(TILT_BANDS_HZ), bands, 1)[0])


def _jitter(f0: Reals, is_steady: NDArray[np.bool_]) -> float:
    whole = is_steady[:-2] & is_steady[1:-1] & is_steady[2:]
    logs = np.log(np.maximum(f0, 1.0))
    return float(100 * np.abs(np.diff(logs, 2)[whole]).mean())


def colours(sound: Sound) -> Reals:
    """What a sentence's spectrum looks like and how it moves, without its level, its F0 and its length.

    Means and deviations over loud frames of 12 mel cepstra, their changes within 20 ms, the spectrum's centroid,
    spread, roll-off, flatness and flux, and of the harmonicity: `MOMENTS` pairs of mean and deviation, then changes.
    """
    power = sound.power[sound.is_loud]
    share = power / power.sum(axis=1, keepdims=True)
    cepstra = np.log(power @ _MEL.T) @ _COSINES
    changes = np.abs(cepstra[2:] - cepstra[:-2])
    octaves = np.log2(np.maximum(sound.hertz, 50.0))
    centroid = share @ octaves
    spread = np.sqrt(np.maximum(share @ octaves**2 - centroid**2, 0))
    rolloff = octaves[(np.cumsum(share, axis=1) < ROLLOFF).sum(axis=1)]
    flatness = np.log(power).mean(axis=1) - np.log(power.mean(axis=1))
    flux = np.sqrt(np.square(np.diff(np.sqrt(share), axis=0)).sum(axis=1))
    series = [*cepstra.T, centroid, spread, rolloff, flatness, flux, sound.harmonicity()]
    moments = [value for one in series for value in (one.mean(), one.std())]
    return np.array([*moments, *changes.mean(axis=0)])


def _mel() -> Reals:
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in MEL_RANGE_HZ)
    edges = 700 * (10 ** (np.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(1024, 1 / RATE)
    rising = (hertz - edges[:-2, np.newaxis]) / np.diff(edges)[:-1, np.newaxis]
    falling = (edges[2:, np.newaxis] - hertz) / np.diff(edges)[1:, np.newaxis]
    return np.asarray(np.clip(np.minimum(rising, falling), 0, None))


_MEL = _mel()
_COSINES = np.cos(np.pi * np.outer(np.arange(MEL_BANDS) + 0.5, np.arange(1, CEPSTRA)) / MEL_BANDS)
