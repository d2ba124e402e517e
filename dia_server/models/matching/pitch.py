"""F0 of a recording: the normalised autocorrelation, and the likeliest path through its peaks.

After P. Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound" (IFA Proceedings 17, 1993). WORLD's own trackers call nearly everything voiced (harvest), or lose creaky
voices (dio).
"""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from dia_server.audio.samples import Samples

Reals = NDArray[np.float64]

RANGE_HZ = (60.0, 420.0)
# Of the sound and, finer, of the lags: a peak between two lags would look lower than it is.
RATE, LAG_RATE = 12_000, 24_000
PERIODS = 3
CANDIDATES = 11
AT_ONCE = 512
# Boersma's parameters, the voicing threshold lower for weak and creaky voices.
VOICING_THRESHOLD = 0.30
SILENCE_THRESHOLD = 0.01
OCTAVE_COST = 0.02
JUMP_COST = 0.35
CHANGE_COST = 0.14
NO_CANDIDATE = -9.0


def track(samples: Samples, sample_rate: int, hop: int, highest_hz: float = RANGE_HZ[1]) -> NDArray[np.float32]:
    """F0 in Hz around every `hop`-th sample, 0 where there is no voice; shape (len(samples) // hop,)."""
    count = len(samples) // hop
    if not count:
        return np.zeros(0, np.float32)
    frames = _frames(soxr.resample(samples.astype(np.float64), sample_rate, RATE), hop * RATE // sample_rate, count)
    peaks = np.abs(frames).max(axis=1)
    loudness = peaks / max(float(np.percentile(peaks, 99)), 1e-9)
    silence = np.maximum(0, 2 - loudness * (1 + VOICING_THRESHOLD) / SILENCE_THRESHOLD)
    blocks = [_candidates(frames[start : start + AT_ONCE], highest_hz) for start in range(0, count, AT_ONCE)]
    f0, scores = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    unvoiced = VOICING_THRESHOLD + silence
    return _best_path(np.insert(f0, 0, 0, axis=1), np.insert(scores, 0, unvoiced, axis=1)).astype(np.float32)


def _frames(sound: Reals, hop: int, count: int) -> Reals:
    """Windows of three periods of the lowest voice around the hops, shape (count, window)."""
    window = int(PERIODS * RATE / RANGE_HZ[0])
    padded = np.pad(sound, (window // 2, window + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop][:count]
    return np.asarray(frames - frames.mean(axis=1, keepdims=True))


def _candidates(frames: Reals, highest_hz: float) -> tuple[Reals, Reals]:
    """What F0 may be in each frame if it has a voice, in Hz, and how likely; shapes (frames, 11)."""
    correlation = _autocorrelation(frames)
    shortest, longest = int(LAG_RATE / highest_hz), int(LAG_RATE / RANGE_HZ[0])
    inner = correlation[:, shortest:longest]
    rises = inner > correlation[:, shortest - 1 : longest - 1]
    falls = inner >= correlation[:, shortest + 1 : longest + 1]
    costs = OCTAVE_COST * np.log2(RANGE_HZ[0] * np.arange(shortest, longest) / LAG_RATE)
    scores = np.where(rises & falls, inner - costs, NO_CANDIDATE)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :CANDIDATES]
    lags = best + shortest
    rows = np.arange(len(frames))[:, np.newaxis]
    before, at, after = (correlation[rows, lags + step] for step in (-1, 0, 1))
    shift = np.clip(0.5 * (before - after) / np.minimum(before - 2 * at + after, -1e-9), -1, 1)
    return LAG_RATE / (lags + shift), np.take_along_axis(scores, best, axis=1)


def _autocorrelation(frames: Reals) -> Reals:
    """That of the windowed frames over the window's own, by lags of 1 / 24,000 s up to the window's length."""
    size = frames.shape[1]
    window = np.hanning(size)
    length = 1 << (2 * size - 1).bit_length()
    finer = LAG_RATE // RATE
    of_frames, of_window = (
        np.fft.irfft(np.abs(np.fft.rfft(signal, length)) ** 2, finer * length)[..., : finer * size]
        for signal in (frames * window, window)
    )
    return np.asarray(of_frames / (of_frames[:, :1] + 1e-12) / np.maximum(of_window / of_window[0], 1e-3))


def _best_path(f0: Reals, scores: Reals) -> Reals:
    """One candidate of each frame (Viterbi)."""
    octaves, voiced = np.log2(np.maximum(f0, 1e-9)), f0 > 0
    total, origins = scores[0], np.zeros(f0.shape, int)
    for frame in range(1, len(f0)):
        both = voiced[frame - 1][:, np.newaxis] & voiced[frame]
        jumps = JUMP_COST * np.abs(octaves[frame - 1][:, np.newaxis] - octaves[frame])
        changes = CHANGE_COST * (voiced[frame - 1][:, np.newaxis] != voiced[frame])
        ways = total[:, np.newaxis] - np.where(both, jumps, changes)
        origins[frame] = ways.argmax(axis=0)
        total = ways.max(axis=0) + scores[frame]
    path = np.empty(len(f0), int)
    path[-1] = total.argmax()
    for frame in range(len(f0) - 1, 0, -1):
        path[frame - 1] = origins[frame, path[frame]]
    return np.asarray(f0[np.arange(len(f0)), path])
