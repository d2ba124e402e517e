"""The model speaks like a recording: it rehearses the recording's words, and learns from the pairs of frames."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import numpy as np

from dia_server.models.hibari.network import Floats, Spectra
from dia_server.models.hibari.steering import VOICED_HZ
from dia_server.models.hibari.synthesis import synthesize
from dia_server.models.matching.analysis import Frames, envelopes
from dia_server.models.matching.cache import VERSION, Matches
from dia_server.models.matching.listening import listen
from dia_server.models.matching.matcher import Match, learn
from dia_server.script.dialogue import without_tags
from dia_server.tasks import Reference

# What the analysis makes of a tone of unit harmonics, besides half the logarithm of its F0, and of noise of unit bins.
TONE_NEPERS, NOISE_NEPERS = 1.3745, 3.914
SHARE_BINS = 11
LOWEST_SHARE = 1e-9
# Envelopes don't depend on a task's seed.
SEED = 0

# Rehearsed where nobody knows what is said in the recording: all sounds of English, each in some surroundings.
EVERY_SOUND = (
    "Five brown dogs chased a yellow ship along the quiet beach, while Joyce poured measured cups of boiling tea. "
    "Would you rather push the huge cart through thin mud, or sing by the fire with both of your good friends? "
    "He thought the view from the old church tower was a rare pleasure, and we just agreed."
)
# A recording's words may take the model so much longer than its speaker.
LONGEST_REHEARSAL_SECONDS = 45.0


class Actor(Protocol):
    """Who rehearses."""

    name: str

    def rehearse(self, text: str, most_seconds: float) -> Frames:
        """The frames of a text, or of as many of its sentences as exceed the time."""


class Cloning:
    """Matches of recordings, learned when they are first needed."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """`fingerprint` names all that a rehearsal depends on."""
        self._matches = Matches(folder)
        self._fingerprint = fingerprint

    def match(self, actor: Actor, reference: Reference, *, is_noisy: bool = False) -> Match:
        """How to speak like a recording; like what is behind its noise, if it `is_noisy`.

        Raises:
            BadRecording: it can't be imitated.
        """
        parts = (VERSION, self._fingerprint, actor.name, reference.transcript, *(("noisy",) if is_noisy else ()))
        learned_from = hashlib.sha256(repr(parts).encode()).hexdigest()
        key = f"{reference.sha256[:32]}-{learned_from[:32]}"
        return self._matches.get(key, lambda: _learn(actor, reference, is_noisy=is_noisy))


def _learn(actor: Actor, reference: Reference, *, is_noisy: bool) -> Match:
    recording, is_cut = listen(reference, is_noisy=is_noisy)
    transcript = without_tags(reference.transcript or "")
    # Capitals would be spelled.
    transcript = transcript.lower() if transcript.isupper() else transcript
    rehearsal = actor.rehearse(transcript, LONGEST_REHEARSAL_SECONDS)
    if rehearsal.is_voiced.any():
        match = learn(rehearsal, recording, says_the_same=True, is_cut=is_cut)
        if match.is_aligned:
            return match
    return learn(actor.rehearse(EVERY_SOUND, LONGEST_REHEARSAL_SECONDS), recording, says_the_same=False)


def rendered(spectra: Spectra, f0: Floats) -> Frames:
    """The frames of speech of the model's own."""
    is_voiced = f0 > VOICED_HZ
    sound = synthesize(spectra, f0, np.random.default_rng(SEED))
    return Frames(envelopes(sound, np.where(is_voiced, f0, 0).astype(np.float32)), np.where(is_voiced, f0, 0))


def imitate(spectra: Spectra, f0: Floats, new_f0: Floats, match: Match) -> Spectra:
    """The spectra with the sound of a match's target.

    Args:
        spectra: the model's own.
        f0: in Hz, with which they were made.
        new_f0: in Hz, with which they will sound.
        match: how to.

    The model's harmonics carry traces of the F0 that they were made for; they are made anew from the envelope.
    """
    own = rendered(spectra, f0)
    wanted = match.imitate(own.envelopes)
    gain = (wanted - own.envelopes).T
    tone = (wanted + _tone_share(spectra, f0)).T + np.float32(TONE_NEPERS) + 0.5 * np.log(np.maximum(new_f0, VOICED_HZ))
    return spectra._replace(
        harmonic=np.where(own.is_voiced, tone, spectra.harmonic + gain).astype(np.float32),
        noise=spectra.noise + gain,
        free=spectra.free + gain,
    )


def _tone_share(spectra: Spectra, f0: Floats) -> Floats:
    """Logarithm of the share of tone in the magnitude, shape (frames, 601)."""
    tone = _smoothed(np.exp(2 * (spectra.harmonic.T - np.float32(TONE_NEPERS))))
    tone /= np.maximum(f0, VOICED_HZ)[:, np.newaxis]
    rest = _smoothed(np.exp(2 * (spectra.free.T - np.float32(NOISE_NEPERS))))
    share: Floats = np.float32(0.5) * np.log(tone / (tone + rest) + np.float32(LOWEST_SHARE))
    return share


def _smoothed(power: Floats) -> Floats:
    """Means over 220 Hz."""
    reach = SHARE_BINS // 2
    sums = np.cumsum(np.pad(power, ((0, 0), (reach + 1, reach)), mode="edge"), axis=1, dtype=np.float64)
    means: Floats = ((sums[:, SHARE_BINS:] - sums[:, :-SHARE_BINS]) / SHARE_BINS).astype(np.float32)
    return means
