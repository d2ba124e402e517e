"""Steady noise taken out of a recording, bin by bin of its spectrum.

Gains are Wiener's at a "decision-directed" signal-to-noise ratio (Y. Ephraim and D. Malah, "Speech enhancement using a
minimum mean-square error short-time spectral amplitude estimator", IEEE Transactions ASSP 32(6), 1984; P. Scalart and
J. Vieira Filho, "Speech enhancement based on a priori signal to noise estimation", ICASSP 1996), which leaves no
musical tones. The noise is what the quietest frames have.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dia_server.audio.samples import Samples

WINDOW_SECONDS = 0.032
# Of the window: with its square root taken, Hann's windows add up to a constant.
HOP = 0.25
# Speakers rest for at least that share of a recording.
QUIET_SHARE = 0.1
# Of the ratio before, in the next frame's.
SMOOTHING = 0.98
# What is left of a bin without speech, -25 dB.
FLOOR = 0.056
LEAST_POWER = 1e-12

Power = NDArray[np.float64]


def denoised(samples: Samples, sample_rate: int) -> Samples:
    """As many samples, with what is steady in them some 25 dB softer; `sample_rate` in Hz."""
    size = round(WINDOW_SECONDS * sample_rate / 4) * 4
    hop = round(size * HOP)
    if len(samples) < size:
        return samples
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size))
    # Zeros around it would pass for its quietest frames.
    padded = np.pad(samples.astype(np.float64), (size, size + -len(samples) % hop), mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectra = np.fft.rfft(frames, axis=1)
    spectra *= _gains(np.abs(spectra) ** 2 + LEAST_POWER)
    whole = np.zeros(len(padded))
    for number, frame in enumerate(np.fft.irfft(spectra, size, axis=1) * window):
        whole[number * hop : number * hop + size] += frame
    # Four squared windows overlap, and add up to two.
    clean: Samples = (whole[size : size + len(samples)] * 2 * HOP).astype(np.float32)
    return clean


def _gains(power: Power) -> Power:
    """A factor for each bin of each frame."""
    ratios: Power = power / _noise(power)
    gains: Power = np.empty_like(power)
    before = np.zeros(power.shape[1])
    for number, ratio in enumerate(ratios):
        prior = SMOOTHING * before + (1 - SMOOTHING) * np.maximum(ratio - 1, 0)
        gains[number] = np.maximum(prior / (1 + prior), FLOOR)
        before = gains[number] ** 2 * ratio
    return gains


def _noise(power: Power) -> Power:
    """The power of each bin in the quietest frames, those of silence without any noise aside."""
    loudness = power.mean(axis=1)
    frames = power[loudness > 2 * LEAST_POWER] if loudness.max() > 2 * LEAST_POWER else power
    quietest = np.argsort(frames.mean(axis=1), kind="stable")[: max(1, round(QUIET_SHARE * len(frames)))]
    noise: Power = frames[quietest].mean(axis=0)
    return noise
