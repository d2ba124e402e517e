"""Prosody and timbre applied between the model's stages: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dia_server.models.hibari.controls import Prosody, Timbre
from dia_server.models.hibari.marks import FRAMES_PER_DURATION, SILENT_ENERGY
from dia_server.models.hibari.network import Floats, Spectra
from dia_server.models.hibari.reading import Sentence

BINS = 601
BIN_HZ = 20.0
FRAME_SECONDS = 0.0125

# Below this the model means "no voice" (hibari.dsp.pulses takes the same).
VOICED_HZ = 40.0
HIGHEST_F0_HZ = 600.0
# At a voice's onset F0 sweeps up from 0; such frames are no melody to be widened.
WIDEST_DEVIATION = 0.6
FINAL_SECONDS = (0.4, 0.1)
NEPERS_PER_SEMITONE = np.log(2) / 12
# From an accent's edge back to the melody: 50 ms.
SLOPE_FRAMES = 4
# In units of 25 ms; what a phoneme has beyond before a pause is rest.
LONGEST_PHONEME = 4.0
# In the model's own unit, of about 2.5 dB; onsets and fadings keep their shape.
WIDEST_ENERGY = 5.0

LOW_HZ = 1_500.0
BLEND_HZ = 500.0
PIVOT_HZ = 1_000.0
TILT_FROM_HZ = 200.0
PRESENCE_HZ = 3_000.0
PRESENCE_OCTAVES = 0.6
NEPERS_PER_DB = np.log(10) / 20
# A harmonic's magnitude is that of one line in every F0 Hz; breath of the same power is spread over all bins.
BREATH_NEPERS = -1.2
# The open glottis of a whisper swallows the low end.
BREATH_FROM_HZ = 700.0
BREATH_SLOPE_DB = 12.0
# What lies above the model's band when formants are moved down fades.
FADE_NEPERS_PER_BIN = 0.03

_FREQUENCIES = np.arange(BINS, dtype=np.float32) * np.float32(BIN_HZ)


def lengthen(durations: Floats, sentence: Sentence, prosody: Prosody) -> Floats:
    """Durations in whole frames, each at least one, under a prosody; rounding errors don't add up."""
    factors = np.full(len(durations), prosody.duration)
    factors[sentence.is_stressed] *= prosody.stressed
    rests = _rests(durations, sentence)
    if prosody.final != 1:
        factors[_is_final(sentence)] *= prosody.final
    if np.all(factors == 1) and prosody.pause == 1:
        return durations
    wanted = (durations - rests) * factors + rests * prosody.duration * prosody.pause
    places = np.arange(len(durations))
    ends = places + np.maximum.accumulate(np.maximum(np.rint(np.cumsum(wanted)) - places, 1))
    lengthened: Floats = np.diff(ends, prepend=0).astype(np.float32)
    return lengthened


def _rests(durations: Floats, sentence: Sentence) -> Floats:
    """The silent part of each duration: all of a pause, and most of what the model gives the phoneme before it."""
    rests = np.where(sentence.is_pause, durations, 0)
    before = np.flatnonzero(sentence.is_pause[1:] & ~sentence.is_pause[:-1])
    rests[before] = np.maximum(durations[before] - LONGEST_PHONEME, 0)
    return np.asarray(rests, np.float32)


def _is_final(sentence: Sentence) -> NDArray[np.bool_]:
    """Whether an id stands between the last stressed vowel before a pause and that pause."""
    is_final, has_vowel = np.zeros(len(sentence.ids), np.bool_), True
    for place in range(len(sentence.ids) - 1, -1, -1):
        if sentence.is_pause[place]:
            has_vowel = False
        elif not has_vowel:
            is_final[place] = True
            has_vowel = bool(sentence.is_stressed[place])
    return is_final


def press(energy: Floats, prosody: Prosody) -> Floats:
    """Energy under a prosody; silence stays silent."""
    if prosody.dynamics != 1:
        sounds = energy > SILENT_ENERGY
        deviation = np.clip(energy - energy[sounds].mean(), -WIDEST_ENERGY, WIDEST_ENERGY) if sounds.any() else 0
        energy = np.where(sounds, energy + (prosody.dynamics - 1) * deviation, energy)
    return np.asarray(energy * np.float32(prosody.effort), np.float32)


def bend(f0: Floats, prosody: Prosody, noise: np.random.Generator, accents: Floats) -> Floats:
    """F0 under a prosody; frames without a voice stay as they are."""
    voiced = f0 > VOICED_HZ
    if not voiced.any():
        return f0
    log_f0 = np.log(f0, where=voiced, out=np.zeros_like(f0))
    deviation = np.clip(log_f0 - np.median(log_f0[voiced]), -WIDEST_DEVIATION, WIDEST_DEVIATION)
    change = np.log(prosody.f0) + (prosody.f0_range - 1) * deviation
    if prosody.f0_final:
        change += prosody.f0_final * NEPERS_PER_SEMITONE * _final_ramp(voiced)
    if prosody.accent:
        change += prosody.accent * NEPERS_PER_SEMITONE * accents
    if prosody.jitter:
        change += prosody.jitter / 100 * noise.standard_normal(len(f0))
    bent = np.where(voiced, np.minimum(f0 * np.exp(change), HIGHEST_F0_HZ), f0)
    return bent.astype(np.float32)


def accents_of(sentence: Sentence, durations: Floats) -> Floats:
    """From -0.5 to 0.5 through each stressed vowel, frame by frame, and 0 elsewhere but for short slopes between."""
    ends = FRAMES_PER_DURATION * np.concatenate([[0], np.cumsum(durations)]).astype(int)
    accents = np.zeros(ends[-1], np.float32)
    for place in np.flatnonzero(sentence.is_stressed):
        # The mark before the vowel has a part of its time.
        start, end = ends[place - 1], ends[place + 1]
        points = [start - SLOPE_FRAMES, start, end, end + SLOPE_FRAMES]
        accents += np.interp(np.arange(len(accents)), points, [0, -0.5, 0.5, 0]).astype(np.float32)
    return accents


def _final_ramp(voiced: NDArray[np.bool_]) -> NDArray[np.float64]:
    """From 0 to 1 over the last voiced frames but the very last, which nobody hears."""
    last = len(voiced) - np.argmax(voiced[::-1])
    start, end = (last - round(seconds / FRAME_SECONDS) for seconds in FINAL_SECONDS)
    return np.clip((np.arange(len(voiced)) - start) / (end - start), 0, 1)


def colour(spectra: Spectra, timbre: Timbre) -> Spectra:
    """The spectra under a timbre."""
    if timbre.warp != 1 or timbre.low_warp != 1:
        spectra = _warp(spectra, timbre)
    if timbre.tilt or timbre.presence:
        shape = _shape(timbre)
        spectra = spectra._replace(
            harmonic=spectra.harmonic + shape, noise=spectra.noise + shape, free=spectra.free + shape
        )
    return _breathe(spectra, timbre.breath) if timbre.breath else spectra


def _warp(spectra: Spectra, timbre: Timbre) -> Spectra:
    """Move what lies at f to f * warp, and below 1.5 kHz to f * warp * low_warp, with a smooth passage.

    Bins are moved as they are: a mean of two neighbours would be softer than both, as the noise in them differs.
    """
    low = 1 / (1 + np.exp((_FREQUENCIES - LOW_HZ * timbre.warp) / (BLEND_HZ / 2)))
    source = np.rint(np.maximum.accumulate(_FREQUENCIES / (timbre.warp * timbre.low_warp**low)) / BIN_HZ).astype(int)
    fade = (FADE_NEPERS_PER_BIN * np.maximum(source - (BINS - 1), 0)).astype(np.float32)[:, np.newaxis]
    source = np.minimum(source, BINS - 1)
    # A line that moves by n bins turns by n quarters more from frame to frame, the hop being a quarter of the window.
    quarters = np.outer((np.arange(BINS) - source) % 4, np.arange(spectra.free.shape[1])) % 4
    return Spectra(
        spectra.harmonic[source] - fade,
        spectra.harmonic_phase[source],
        spectra.noise[source] - fade,
        spectra.free[source] - fade,
        spectra.free_phase[source] + np.float32(np.pi / 2) * quarters.astype(np.float32),
    )


def _shape(timbre: Timbre) -> Floats:
    """Nepers to add to each bin, shape (601, 1)."""
    octaves = np.log2(np.maximum(_FREQUENCIES, TILT_FROM_HZ) / PIVOT_HZ)
    distance = np.log2(np.maximum(_FREQUENCIES, TILT_FROM_HZ) / PRESENCE_HZ) / PRESENCE_OCTAVES
    decibels = timbre.tilt * octaves + timbre.presence * np.exp(-(distance**2))
    nepers: Floats = (NEPERS_PER_DB * decibels).astype(np.float32)
    return nepers[:, np.newaxis]


def _breathe(spectra: Spectra, breath: float) -> Spectra:
    """Turn a share of the tone into noise of the same envelope."""
    tone = np.logaddexp(spectra.harmonic, spectra.free)
    octaves_below = np.log2(BREATH_FROM_HZ / np.clip(_FREQUENCIES, BIN_HZ, BREATH_FROM_HZ))
    loss = (BREATH_NEPERS + np.log(breath) - BREATH_SLOPE_DB * NEPERS_PER_DB * octaves_below).astype(np.float32)
    noise = np.logaddexp(spectra.noise, tone + loss[:, np.newaxis])
    rest = np.float32(np.log(max(1 - breath, 1e-6)))
    return spectra._replace(harmonic=spectra.harmonic + rest, noise=noise, free=spectra.free + rest)
