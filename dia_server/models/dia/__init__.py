"""Dia-1.6B by Nari Labs: dialogue between two speakers, with their laughs and sighs."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from dia_server.models.dia.setup import NAME, SAMPLE_RATE, DiaSetup, check_files, memory_of, repositories
from dia_server.models.protocol import Manifest, Recordings
from dia_server.script.dialogue import NONVERBAL
from dia_server.script.text import Dialogue


class DiaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How codes are sampled; defaults are those of the model's own program (nari-labs/dia, `Dia.generate`).

    Attributes:
        cfg_scale: how much the text guides; 1 is no guidance, which takes as long.
        temperature: 0 takes the likeliest codes.
        top_p: the share of probability that is drawn from.
        top_k: candidates per code; less than 5 might leave none that is a code.
        judge: `segment` holds a segment back until it is whole, so that a bad one is made anew.
    """

    cfg_scale: Annotated[float, msgspec.Meta(ge=1, le=10)] = 3.0
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 1.2
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.95
    top_k: Annotated[int, msgspec.Meta(ge=5, le=100)] = 45
    judge: Literal["start", "segment"] = "start"


MANIFEST = Manifest(
    name=NAME,
    description="Dialogue between two speakers, with laughs and sighs; wants a GPU.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.dia.loading:load",
    options=DiaOptions,
    setup=DiaSetup,
    sample_rate=SAMPLE_RATE,
    hop_length=512,
    licence="Apache-2.0",
    source="nari-labs/Dia-1.6B-0626, descript/dac_44khz",
    packages=("torch", "safetensors", "huggingface_hub"),
    extra="dia",
    repositories=repositories,
    check=check_files,
    rank=2,
    memory=memory_of,
    languages=("en",),
    directable=frozenset({"audio_prompt"}),
    nonverbal=frozenset(NONVERBAL),
    # It speaks 5 to 20 s well, and holds 35 s and 1,024 bytes in all: a piece, and the one or the recordings before it.
    dialogue=Dialogue(fewest_characters=75, most_characters=180, most_bytes=512),
    recordings=Recordings(most_seconds=20.0, most_seconds_together=23.0, needs_transcript=True),
    findings_advice=(
        "another seed may help; with `judge: segment` under `models: dia:` in the voice's file, such segments are made "
        "anew before they are heard"
    ),
    # One layer of a prompt's rows on two cores.
    beat_seconds=60.0,
    devices=frozenset({"cpu", "cuda"}),
)

__all__ = ["MANIFEST", "DiaOptions", "DiaSetup"]
