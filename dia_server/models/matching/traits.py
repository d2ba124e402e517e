"""How a recording is said, whatever the words: the melody, the pace, the pauses, the voice's sound.

None of it depends on how loud the recording is, since nobody knows how far away the microphone was. How F0 moves within
stressed syllables and at the ends of phrases is left out too: that depends on the words more than on the manner.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from dia_server.audio.samples import Samples
from dia_server.models.matching.pitch import track

Reals = NDArray[np.float64]

RATE = 24_000
HOP = 300
FRAMES_PER_SECOND = RATE / HOP
# Excited voices go higher than those that are imitated.
HIGHEST_HZ = 600.0

# What is softer than loud frames by more is silence.
LOUD_PERCENTILE, SILENCE_DB = 97, 30.0
SHORTEST_PAUSE = 0.12
# Further from the median lie the tracker's mistakes.
WIDEST_SEMITONES = 10.0
# Syllables are peaks of the level with dips of 2 dB between them (N. de Jong and T. Wempe, "Praat script to detect
# syllable nuclei and measure speech rate automatically", Behavior Research Methods 41, 2009); in the band of vowels,
# which tilt and breath hardly change.
DIP_DB, VOWELS_HZ, SYLLABLE_SMOOTHING = 2.0, (300.0, 2_500.0), 5
WINDOW = 1024
TILT_BANDS_HZ = 250.0 * 2 ** (np.arange(13) / 3)
# Up to there harmonics show breath, and hardly tilt or a recording's noise; while F0 stands still, in its change by the
# period, and the voice is loud.
HARMONIC_HZ, STEADY, VOICE_DB = 1_500.0, 0.006, 20.0
PERIOD_SEARCH = 0.04
FLOOR = 1e-10

# Less can't be told from chance.
LEAST_VOICED_SECONDS = 0.5
# Noise has -3 dB, and the breathiest voices of the model's own 10.
LEAST_HARMONICITY_DB = 4.0


class Traits(NamedTuple):
    """What was measured.

    Attributes:
        pitch: mean F0, in semitones above 1 Hz.
        range: standard deviation of F0, in semitones.
        rate: syllables a second of speech, pauses left out.
        pause: mean length of a pause, in seconds; 0 if there was none.
        tilt: of the voice's spectrum, in dB per octave.
        harmonicity: what one period has in common with the next one over what it has not, in dB; breath takes of it.
        jitter: median change of F0's slope from frame to frame, in per cent of F0.
    """

    pitch: float
    range: float
    rate: float
    pause: float
    tilt: float
    harmonicity: float
    jitter: float


def traits_of(samples: Samples, sample_rate: int) -> Traits:
    """Measure mono speech.

    Raises:
        ValueError: there is hardly a voice in it.
    """
    sound = soxr.resample(samples.astype(np.float64), sample_rate, RATE)
    f0 = track(sound, RATE, HOP, HIGHEST_HZ).astype(np.float64)
    frames = _frames(sound, len(f0))
    level = _level(np.mean(frames**2, axis=1))
    is_loud = level > _loudest(level) - SILENCE_DB
    is_voiced = (f0 > 0) & is_loud
    if is_voiced.sum() < LEAST_VOICED_SECONDS * FRAMES_PER_SECOND:
        raise ValueError("there is hardly a voice in it")
    semitones = 12 * np.log2(np.maximum(f0, 1.0))
    is_voiced &= np.abs(semitones - np.median(semitones[is_voiced])) < WIDEST_SEMITONES
    harmonicity = _harmonicity(sound, f0, is_voiced & (level > _loudest(level) - VOICE_DB))
    if harmonicity < LEAST_HARMONICITY_DB:
        raise ValueError("there is hardly a voice in it")
    power = np.abs(np.fft.rfft(frames * np.hanning(WINDOW))) ** 2
    return Traits(
        pitch=float(semitones[is_voiced].mean()),
        range=float(semitones[is_voiced].std()),
        rate=_syllables(power, is_voiced) / (is_loud.sum() / FRAMES_PER_SECOND),
        pause=_mean_pause(is_loud),
        tilt=_tilt(power[is_voiced].mean(axis=0)),
        harmonicity=harmonicity,
        jitter=_jitter(np.log(np.maximum(f0, 1.0)), is_voiced),
    )


def _frames(sound: Reals, count: int) -> Reals:
    padded = np.pad(sound, (WINDOW // 2, WINDOW))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:count])


def _level(power: Reals) -> Reals:
    return np.asarray(10 * np.log10(power + FLOOR))


def _loudest(level: Reals) -> float:
    return float(np.percentile(level, LOUD_PERCENTILE)) if len(level) else 0.0


def _mean_pause(is_loud: NDArray[np.bool_]) -> float:
    """Of the silences between speech."""
    inside = np.flatnonzero(is_loud)
    edges = np.flatnonzero(np.diff(is_loud[inside[0] : inside[-1] + 1].astype(int)))
    lengths = (edges[1::2] - edges[::2]) / FRAMES_PER_SECOND
    pauses = lengths[lengths >= SHORTEST_PAUSE]
    return float(pauses.mean()) if len(pauses) else 0.0


def _syllables(power: Reals, is_voiced: NDArray[np.bool_]) -> int:
    """How often the level of vowels rises by 2 dB or more to where there is a voice."""
    low, high = VOWELS_HZ
    level = _level(power[:, (low <= _HERTZ) & (high > _HERTZ)].sum(axis=1))
    window = np.hanning(SYLLABLE_SMOOTHING + 2)[1:-1]
    smooth = np.convolve(np.maximum(level, _loudest(level) - SILENCE_DB), window / window.sum(), mode="same")
    count, lowest, highest = 0, smooth[0], np.inf
    for value, has_voice in zip(smooth, is_voiced, strict=True):
        lowest = min(lowest, value)
        if value < highest - DIP_DB:
            highest, lowest = -np.inf, value
        if highest == -np.inf and value > lowest + DIP_DB and has_voice:
            count, highest = count + 1, value
        if highest > -np.inf:
            highest = max(highest, value)
    return max(count, 1)


def _tilt(power: Reals) -> float:
    edge = 2 ** (1 / 6)
    bands = [_level(power[(centre / edge <= _HERTZ) & (centre * edge > _HERTZ)].mean()) for centre in TILT_BANDS_HZ]
    return float(np.polyfit(np.log2(TILT_BANDS_HZ), bands, 1)[0])


def _harmonicity(sound: Reals, f0: Reals, is_voiced: NDArray[np.bool_]) -> float:
    """The median over frames in which F0 stands still, where there are such."""
    low = soxr.resample(soxr.resample(sound, RATE, 2 * HARMONIC_HZ), 2 * HARMONIC_HZ, RATE)
    low = np.pad(low, RATE)
    slope = np.abs(np.gradient(np.log(np.maximum(f0, 1.0)))) * FRAMES_PER_SECOND / np.maximum(f0, 1.0)
    is_steady = is_voiced & (slope < STEADY)
    ratios = []
    for frame in np.flatnonzero(is_steady if is_steady.any() else is_voiced):
        centre, period = RATE + frame * HOP, RATE / f0[frame]
        lags = range(int(period * (1 - PERIOD_SEARCH)), int(period * (1 + PERIOD_SEARCH)) + 2)
        pairs = ((low[centre - lag : centre], low[centre : centre + lag]) for lag in lags)
        likeness = max(float(one @ other / np.sqrt(one @ one * (other @ other) + FLOOR)) for one, other in pairs)
        likeness = min(max(likeness, 0.01), 0.9999)
        ratios.append(10 * np.log10(likeness / (1 - likeness)))
    return float(np.median(ratios)) if ratios else -np.inf


def _jitter(log_f0: Reals, is_voiced: NDArray[np.bool_]) -> float:
    whole = is_voiced[:-2] & is_voiced[1:-1] & is_voiced[2:]
    return float(100 * np.median(np.abs(np.diff(log_f0, 2)[whole]))) if whole.any() else 0.0


_HERTZ = np.fft.rfftfreq(WINDOW, 1 / RATE)
