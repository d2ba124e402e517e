"""Hibari: a small English model inside its package, more than a hundred times faster than real time on one core."""

from __future__ import annotations

from typing import Annotated

import msgspec

from dia_server.errors import ModelUnavailable
from dia_server.models.hibari.bases import BUNDLED, bases, downloads
from dia_server.models.hibari.controls import Prosody, Timbre
from dia_server.models.protocol import Manifest


class HibariOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who speaks: one of the trained voices, changed in prosody and timbre.

    Attributes:
        base: `heart`, which comes with the server, or one fetched by `dia-server models pull hibari`.
        prosody: changes of its melody and pace.
        timbre: changes of its sound.
        use_random: vary an emotion from segment to segment, by the seed.
        normalize: say addresses, telephone numbers, fractions, emoji and the like in words.
        denoise: learn from the voice's recording as it would sound without its noise.
        retry_badcase: hold each segment back until it is judged, and make a bad one anew.
        retry_badcase_max_times: how often, at most.
        retry_badcase_ratio_threshold: bad is what lasts longer than the plain reading by more than this factor, or
            can't be heard.
        verbose: tell of each segment what the stages made of it.
    """

    base: str = BUNDLED
    prosody: Prosody = Prosody()
    timbre: Timbre = Timbre()
    use_random: bool = False
    normalize: bool = False
    denoise: bool = False
    retry_badcase: bool = False
    retry_badcase_max_times: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3
    retry_badcase_ratio_threshold: Annotated[float, msgspec.Meta(gt=0)] = 6.0
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse a base that is not here.

        Raises:
            ValueError: there is none of that name.
            ModelUnavailable: it was not downloaded.
        """
        known = bases()
        if self.base not in known:
            raise ValueError(f"base '{self.base}' is not known; known are {', '.join(known)}")
        if not known[self.base].file.path.exists():
            raise ModelUnavailable(
                f"The base '{self.base}' of model 'hibari' is not here; fetch it with `dia-server models pull hibari`",
                retry_after=60,
            )


MANIFEST = Manifest(
    name="hibari",
    description="A small English voice that speaks on any laptop; comes with the server.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.hibari.engine:load",
    options=HibariOptions,
    sample_rate=24_000,
    hop_length=300,
    licence="Apache-2.0",
    source="hibari-tts (in the package)",
    packages=("hibari", "onnx", "onnxruntime", "pyworld"),
    downloads=downloads,
    rank=1,
    languages=("en",),
    # Phonemes shorter than that are swallowed: at twice the pace Whisper mistakes 13 % of the words, and 3 % where the
    # durations carry 1.25 and the tempo stage the rest.
    speed=(0.5, 1.25),
    directable=frozenset({"pitch", "volume", "emotion", "emotion_reference", "style", "audio_prompt"}),
    acts_with={
        "use_random": frozenset({"emotion", "emotion_reference"}),
        "denoise": frozenset({"audio_prompt"}),
        "retry_badcase_max_times": frozenset({"retry_badcase"}),
        "retry_badcase_ratio_threshold": frozenset({"retry_badcase"}),
    },
    word_times=True,
)

__all__ = ["MANIFEST", "HibariOptions", "Prosody", "Timbre", "bases"]
