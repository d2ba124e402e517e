"""From a task's `Delivery` to the model's controls: emotions, styles, partners."""

from __future__ import annotations

from dia_server.models.hibari.controls import Manner, Prosody, Timbre
from dia_server.tasks import Delivery

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


def partner_of(voice: Manner) -> Manner:
    """Somebody else than a voice that the model speaks in its own sound."""
    # A whisper has no pitch to go by.
    depth = voice.timbre.warp if voice.timbre.breath == 1 else voice.prosody.f0
    return voice.moved(HIGHER_PARTNER if depth < DEEP else LOWER_PARTNER)


def direct(voice: Manner, delivery: Delivery, emotion: Manner | None = None) -> Manner:
    """How a voice speaks under a delivery; `emotion` is what the delivery's emotion makes of it."""
    manner = voice.moved(emotion or Manner()).moved(STYLE_MANNERS.get(delivery.style, Manner()))
    return manner.moved(Manner(prosody=Prosody(f0=2 ** (delivery.pitch / 12)), timbre=Timbre(gain=delivery.volume)))
