"""How loud speech is, and making it as loud as other speech."""

from __future__ import annotations

import numpy as np

from dia_server.audio.samples import Samples

FRAME_SECONDS = 0.02
# What is softer than the loudest frames by more is no speech, but pauses and breath.
SPEECH_RANGE_DB = 30.0
PEAK = 0.97


def speech_level(samples: Samples, sample_rate: int) -> float:
    """RMS of the frames with speech, in dB of full scale; -inf for silence."""
    size = round(FRAME_SECONDS * sample_rate)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1) if len(frames) else np.zeros(1)
    if not power.max() > 0:
        return float("-inf")
    speech = power[power > power.max() * 10 ** (-SPEECH_RANGE_DB / 10)]
    return float(10 * np.log10(speech.mean()))


def levelled(samples: Samples, sample_rate: int, decibels: float) -> Samples:
    """The samples with their speech at a level in dB of full scale, or as near to it as their peaks allow."""
    level = speech_level(samples, sample_rate)
    if level == float("-inf"):
        return samples
    gain = min(10 ** ((decibels - level) / 20), PEAK / float(np.abs(samples).max()))
    return samples * np.float32(gain)
