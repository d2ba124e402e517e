"""IndexTTS2 by bilibili: voices and emotions taken from recordings; a program in an environment of its own."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from dia_server.models.index_tts2.setup import IndexTtsSetup, check
from dia_server.models.protocol import Manifest, Recordings

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class IndexTtsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What `IndexTTS2.infer` takes besides text and recordings, with its own defaults (index-tts/index-tts).

    Attributes:
        use_random: draw the example of each emotion instead of taking the one nearest to the speaker.
        verbose: tell the log more.
        interval_silence: ms of silence between the parts of a segment.
        max_text_tokens_per_segment: longest part.
        top_p: the share of probability that is drawn from.
        top_k: candidates per code; 0 takes all.
        temperature: 0 would draw nothing.
        length_penalty: of beams; above 0 favours long ones.
        num_beams: readings that are followed at once.
        repetition_penalty: 1 is none.
        max_mel_tokens: longest part, in codes of which a second has fifty.
        lang: of version 2.5, such as `en`; without one it is told by the letters.
        duration_factor: of version 2.5; above 1 is slower.
        text_normalization: of version 2.5; writes numbers and the like as words.
    """

    use_random: bool = False
    verbose: bool = False
    interval_silence: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 200
    max_text_tokens_per_segment: Annotated[int, msgspec.Meta(ge=20, le=600)] = 120
    top_p: Share = 0.8
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 30
    temperature: Annotated[float, msgspec.Meta(gt=0, le=2)] = 0.8
    length_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] = 0.0
    num_beams: Annotated[int, msgspec.Meta(ge=1, le=10)] = 3
    repetition_penalty: Annotated[float, msgspec.Meta(ge=1, le=20)] = 10.0
    max_mel_tokens: Annotated[int, msgspec.Meta(ge=50, le=3_000)] = 1_500
    lang: Literal["en", "zh", "zhen", "ja", "es"] | None = None
    duration_factor: Annotated[float, msgspec.Meta(ge=0.5, le=2)] = 1.0
    text_normalization: bool = True


MANIFEST = Manifest(
    name="index-tts2",
    description="Voices and emotions taken from recordings; a program of its own, and wants a GPU.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.index_tts2.engine:load",
    options=IndexTtsOptions,
    setup=IndexTtsSetup,
    sample_rate=22_050,
    licence="bilibili Model Use License",
    source="IndexTeam/IndexTTS-2 or IndexTTS-2.5, by index-tts/index-tts",
    check=check,
    languages=("en", "zh", "ja", "es"),
    directable=frozenset({"audio_prompt", "emotion", "emotion_reference"}),
    acts_with={"use_random": frozenset({"emotion"})},
    recordings=Recordings(are_needed=True),
    # Its networks beat with every layer; what doesn't is compiling them, and libraries that read a recording.
    beat_seconds=300.0,
    devices=frozenset({"cpu", "cuda"}),
)


__all__ = ["MANIFEST", "IndexTtsOptions", "IndexTtsSetup"]
