"""From a task's `Delivery` to the model's controls: a first table of emotions and styles.

The emotions' F0, range, rate and volume are MARY TTS' rules (M. Schröder, `emotion-to-mary.xsl`) at points of
activation, evaluation and power chosen by us, with the rate capped at 1.2 and the tilt set to about half the gain. The
twins that come out nearly alike there are told apart by categorical cues after F. Burkhardt, "Emofilt: the simulation
of emotional speech by prosody transformation" (Interspeech 2005): jitter and long stressed vowels for anger, a high
breathy voice that rises at the end for fear, a narrow and flat one for melancholy.
"""

from __future__ import annotations

import msgspec

from dia_server.models.hibari.controls import Prosody, Timbre, combine
from dia_server.tasks import EMOTIONS, Delivery


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a sentence is said."""

    prosody: Prosody = Prosody()
    timbre: Timbre = Timbre()

    def moved(self, change: Manner, weight: float = 1.0) -> Manner:
        """This manner with `weight` times another one on top."""
        return Manner(
            prosody=combine(self.prosody, change.prosody, weight), timbre=combine(self.timbre, change.timbre, weight)
        )


EMOTION_MANNERS = {
    "happy": Manner(
        prosody=Prosody(f0=1.19, f0_range=1.51, duration=1 / 1.2, effort=1.08),
        timbre=Timbre(tilt=1.0, warp=1.03, gain=3.0),
    ),
    "angry": Manner(
        prosody=Prosody(
            f0=1.10, f0_range=1.59, f0_final=-2.0, jitter=2.0, duration=1 / 1.19, stressed=1.15, effort=1.15
        ),
        timbre=Timbre(tilt=1.8, gain=3.5),
    ),
    "sad": Manner(
        prosody=Prosody(f0=0.89, f0_range=0.73, duration=1 / 0.74, pause=1.2, effort=0.9),
        timbre=Timbre(tilt=-1.2, breath=0.3, gain=-1.6),
    ),
    "afraid": Manner(
        prosody=Prosody(f0=1.3, f0_range=1.4, f0_final=3.0, jitter=1.5, duration=1 / 1.2, pause=1.3),
        timbre=Timbre(tilt=0.5, breath=0.35, gain=1.0),
    ),
    "disgusted": Manner(
        prosody=Prosody(f0=1.03, f0_range=1.35, f0_final=-3.0, duration=1 / 1.05, stressed=1.3),
        timbre=Timbre(low_warp=0.95, gain=2.1),
    ),
    "melancholic": Manner(
        prosody=Prosody(f0=0.88, f0_range=0.45, f0_final=-1.0, duration=1 / 0.85, pause=1.3, effort=0.92),
        timbre=Timbre(tilt=-0.8, gain=-1.7),
    ),
    "surprised": Manner(
        prosody=Prosody(f0=1.25, f0_range=1.67, f0_final=4.0, duration=1 / 1.15, stressed=1.1, effort=1.05),
        timbre=Timbre(tilt=1.0, gain=4.0),
    ),
    "calm": Manner(
        prosody=Prosody(f0=0.92, f0_range=0.54, duration=1 / 0.91, pause=1.15, effort=0.95),
        timbre=Timbre(tilt=-0.8, breath=0.1, gain=-2.7),
    ),
}

STYLE_MANNERS = {
    "neutral": Manner(),
    "whisper": Manner(prosody=Prosody(duration=1.1), timbre=Timbre(breath=1.0, gain=-6.0)),
    "narration": Manner(prosody=Prosody(f0_range=1.2, duration=1.08, pause=1.35), timbre=Timbre(tilt=-0.3)),
    "monotone": Manner(prosody=Prosody(f0_range=0.2)),
    "news": Manner(
        prosody=Prosody(f0_range=1.15, f0_final=-1.5, duration=0.95, effort=1.08), timbre=Timbre(presence=2.0)
    ),
}

# The other speaker of a voice that ties nobody to the tag: a man beside a woman or a child, a woman beside a man.
DEEP = 0.85
LOWER_PARTNER = Manner(prosody=Prosody(f0=0.58), timbre=Timbre(warp=0.8, tilt=-1.5))
HIGHER_PARTNER = Manner(prosody=Prosody(f0=1.75), timbre=Timbre(warp=1.22, low_warp=1.1, tilt=1.5))


def beside(depth: float) -> Manner:
    """Somebody else than a voice whose F0 is `depth` times the model's own."""
    return Manner() if depth < DEEP else LOWER_PARTNER


def direct(voice: Manner, delivery: Delivery, *, is_partner: bool) -> Manner:
    """How a voice speaks under a delivery."""
    manner = voice
    if is_partner:
        # A whisper has no pitch to go by.
        depth = voice.timbre.warp if voice.timbre.breath == 1 else voice.prosody.f0
        manner = manner.moved(HIGHER_PARTNER if depth < DEEP else LOWER_PARTNER)
    for name, weight in zip(EMOTIONS, delivery.emotion, strict=False):
        manner = manner.moved(EMOTION_MANNERS[name], weight)
    manner = manner.moved(STYLE_MANNERS.get(delivery.style, Manner()))
    return manner.moved(Manner(prosody=Prosody(f0=2 ** (delivery.pitch / 12)), timbre=Timbre(gain=delivery.volume)))
