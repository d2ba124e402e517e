"""The model's own controls, as voices set them and deliveries move them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

Factor = Annotated[float, msgspec.Meta(ge=0.25, le=4.0)]


class Prosody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens between the model's stages, to durations, F0 and energy. The defaults change nothing.

    Attributes:
        f0: factor of the fundamental frequency.
        f0_range: factor of its distance from the sentence's mean, on a logarithmic scale.
        f0_final: semitones by which it has risen, or fallen, at a sentence's end.
        accent: semitones by which it rises, or falls, within each stressed vowel.
        jitter: random deviation of F0 from frame to frame, as a standard deviation in per cent.
        duration: factor of all durations.
        stressed: further factor for stressed vowels.
        final: further factor for what is said from the last stressed vowel before punctuation on.
        pause: factor for the silence at punctuation, besides `duration`.
        effort: factor of the energy that the voice puts in; the level is evened out afterwards.
        dynamics: factor of that energy's distance from the sentence's mean: how far loud and soft are apart.
    """

    f0: Factor = 1.0
    f0_range: Annotated[float, msgspec.Meta(ge=0.05, le=4.0)] = 1.0
    f0_final: Annotated[float, msgspec.Meta(ge=-12.0, le=12.0)] = 0.0
    accent: Annotated[float, msgspec.Meta(ge=-12.0, le=12.0)] = 0.0
    jitter: Annotated[float, msgspec.Meta(ge=0.0, le=10.0)] = 0.0
    duration: Factor = 1.0
    stressed: Factor = 1.0
    final: Factor = 1.0
    pause: Factor = 1.0
    effort: Annotated[float, msgspec.Meta(ge=0.5, le=1.5)] = 1.0
    dynamics: Annotated[float, msgspec.Meta(ge=0.0, le=2.0)] = 1.0


class Timbre(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to the spectra before they become sound. The defaults change nothing.

    Attributes:
        warp: factor of all formant frequencies; above 1 for a shorter vocal tract.
        low_warp: further factor for what lies below 1.5 kHz: the throat's part of the tract.
        tilt: dB per octave, around 1 kHz; positive is brighter.
        presence: dB around 3 kHz.
        breath: share of the voice that is breath instead of tone; 1 whispers.
        gain: dB, after the level was evened out.
    """

    warp: Annotated[float, msgspec.Meta(ge=0.6, le=1.6)] = 1.0
    low_warp: Annotated[float, msgspec.Meta(ge=0.7, le=1.4)] = 1.0
    tilt: Annotated[float, msgspec.Meta(ge=-6.0, le=6.0)] = 0.0
    presence: Annotated[float, msgspec.Meta(ge=-12.0, le=12.0)] = 0.0
    breath: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.0
    gain: Annotated[float, msgspec.Meta(ge=-20.0, le=12.0)] = 0.0


Controls = TypeVar("Controls", Prosody, Timbre)


def combine(base: Controls, change: Controls, weight: Callable[[], float]) -> Controls:
    """`base` moved by `change`: factors multiply, dB and semitones add, breath never leaves 0 to 1.

    `weight` is asked for each control, how much of its change counts.
    """
    values = {}
    for name, default in zip(base.__struct_fields__, base.__struct_defaults__, strict=True):
        ours, theirs, share = getattr(base, name), getattr(change, name), weight()
        if name == "breath":
            values[name] = 1 - (1 - ours) * (1 - min(share * theirs, 1))
        else:
            values[name] = ours * theirs**share if default else ours + share * theirs
    return type(base)(**values)


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How a sentence is said."""

    prosody: Prosody = Prosody()
    timbre: Timbre = Timbre()

    def moved(self, change: Manner, weight: float = 1.0) -> Manner:
        """This manner with `weight` times another one on top."""
        return Manner(
            prosody=combine(self.prosody, change.prosody, lambda: weight),
            timbre=combine(self.timbre, change.timbre, lambda: weight),
        )

    def varied(self, draw: Callable[[], float]) -> Manner:
        """This manner with as much of each control as is drawn for it, 1 being all."""
        return Manner(
            prosody=combine(Prosody(), self.prosody, draw),
            timbre=combine(Timbre(), self.timbre, draw),
        )
