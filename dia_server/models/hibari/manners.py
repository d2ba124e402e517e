"""The manner of a recording: what tells it from the speaker's own speech, as changes of prosody and timbre."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from dia_server.audio.samples import Samples
from dia_server.models.hibari.controls import Manner, Prosody, Timbre
from dia_server.models.matching.cache import AllTraits
from dia_server.models.matching.listening import LONGEST_SECONDS
from dia_server.models.matching.traits import LEAST_VOICED_SECONDS, RATE, Traits, traits_of
from dia_server.models.recording import BadRecording, read_reference
from dia_server.tasks import Reference

# Of the way in which traits are measured and written.
VERSION = 1

# So much higher or lower than in a recording of the speaker is the manner; more is somebody else's voice.
OWN_SEMITONES = 5.0
# Men's and women's mean F0 in semitones above 1 Hz, from 119 and 207 Hz (H. Traunmueller and A. Eriksson, "The
# frequency range of the voice fundamental in the speech of male and female adults", 1995). Of somebody's distance from
# the nearer one, half is taken for the manner, as people differ by about as much as emotions do.
USUAL_PITCHES, MANNERS_SHARE = (82.7, 92.3), 0.5
# Syllables run together in quick speech, and a part of each pause is the fading of what comes before: what is measured
# moves by so much less than what was set.
RATE_EXPONENT, PAUSE_EXPONENT = 1.5, 1.7
# Of the model's own speech: harmonicity falls by that for each semitone down, by 2 dB through a lively melody, and by
# 60 dB times the square of breath.
HARMONICITY_PER_SEMITONE, SPARED_DB, DB_OF_BREATH = 0.33, 2.0, 60.0
# Per cent for each per cent that is measured, less what the melody's range brings of it, and chance.
JITTER_FACTOR, SPARED_JITTER = 3.2, 0.15
# A voice that presses is brighter and louder: for each dB per octave.
GAIN_PER_TILT = 1.5

# In semitones; nobody speaks with less.
LEAST_RANGE = 0.5
RANGES, DURATIONS, PAUSES = (0.4, 2.0), (0.8, 1.5), (0.6, 2.0)
MOST_TILT, MOST_BREATH, MOST_JITTER = 2.0, 0.4, 4.0

# Prose of usual melody, pace and pauses, as `scripts/benchmarks/texts.py` has them on the whole: what voices without a
# recording speak to be compared with.
PROSE = (
    "The storm had taken half of the pier, but the lamp at its end still burned every night. When the old clock struck "
    "nine, somebody laughed behind the curtain. We closed the gate behind us, and we were home before the rain. Wait "
    "until the soup has boiled, then add the herbs and a little salt. The baker's son wanted to be a sailor, and "
    "nobody could talk him out of it."
)


def manner_of(wanted: Traits, own: Traits, *, is_recorded: bool) -> Manner:
    """What makes speech of one's own traits have the wanted ones, within bounds in which it stays speech.

    `is_recorded` tells that one's own are of a recording; the wanted ones may be the same person's then.
    """
    away = wanted.pitch - own.pitch
    is_same = is_recorded and abs(away) <= OWN_SEMITONES
    semitones = away if is_same else MANNERS_SHARE * min((wanted.pitch - usual for usual in USUAL_PITCHES), key=abs)
    duration = _bounded((own.rate / wanted.rate) ** RATE_EXPONENT, DURATIONS)
    has_pauses = wanted.pause > 0 and own.pause > 0
    tilt = _bounded(wanted.tilt - own.tilt, (-MOST_TILT, MOST_TILT))
    lost = own.harmonicity - wanted.harmonicity + HARMONICITY_PER_SEMITONE * away
    widened = wanted.range / max(own.range, LEAST_RANGE)
    shaken = wanted.jitter - own.jitter * widened - SPARED_JITTER
    return Manner(
        prosody=Prosody(
            f0=2 ** (_bounded(semitones, (-OWN_SEMITONES, OWN_SEMITONES)) / 12),
            f0_range=_bounded(widened, RANGES),
            jitter=_bounded(JITTER_FACTOR * shaken, (0.0, MOST_JITTER)),
            duration=duration,
            pause=_bounded((wanted.pause / own.pause / duration) ** PAUSE_EXPONENT, PAUSES) if has_pauses else 1.0,
        ),
        timbre=Timbre(
            tilt=tilt,
            breath=min((max(lost - SPARED_DB, 0.0) / DB_OF_BREATH) ** 0.5, MOST_BREATH),
            gain=GAIN_PER_TILT * tilt,
        ),
    )


def _bounded(value: float, bounds: tuple[float, float]) -> float:
    return float(min(max(value, bounds[0]), bounds[1]))


class Manners:
    """Manners of recordings, measured when they are first needed."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """`fingerprint` names all that the model's own speech, and what is measured, depends on."""
        self._traits = AllTraits(folder)
        self._fingerprint = fingerprint

    def of_recording(self, reference: Reference, name: str) -> Traits:
        """How a recording is said; `name` is what errors call it.

        Raises:
            BadRecording: it can't be read, or there is hardly a voice in it.
        """
        return self._get((reference.sha256,), lambda: _measured(reference, name))

    def of_voice(self, base: str, own: Manner, speak: Callable[[Manner], Samples]) -> Traits:
        """How a voice speaks when nothing is wanted of it.

        Args:
            base: the trained voice that it is made of.
            own: what is made of that.
            speak: gives some speech in a manner, at 24 kHz.
        """

        def heard() -> Traits:
            try:
                return traits_of(speak(own), RATE)
            except ValueError:  # a whisper has no melody to compare with, nor has what is too low to be followed
                return traits_of(speak(Manner()), RATE)

        return self._get((base, own), heard)

    def _get(self, parts: tuple[object, ...], measure: Callable[[], Traits]) -> Traits:
        name = repr((VERSION, self._fingerprint, *parts))
        return self._traits.get(hashlib.sha256(name.encode()).hexdigest()[:32], measure)


def _measured(reference: Reference, name: str) -> Traits:
    samples, sample_rate = read_reference(reference, name)
    try:
        return traits_of(samples[: round(LONGEST_SECONDS * sample_rate)], sample_rate)
    except ValueError:
        raise BadRecording(
            f"{name} has hardly a voice in it; there have to be at least {LEAST_VOICED_SECONDS:g} s of one in "
            f"its first {LONGEST_SECONDS:g} s"
        ) from None
