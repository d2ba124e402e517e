"""Lists of voices."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from litestar import get

from dia_server.voices.store import VoiceStore


class VoiceEntry(msgspec.Struct, kw_only=True):
    """A voice as the Dia contract lists it; `voice_id` repeats `id` for clients that read that name."""

    id: str
    voice_id: str
    name: str
    style: str
    primary_speaker: str
    has_audio_prompt: bool
    preview_url: str


class VoiceList(msgspec.Struct, kw_only=True):
    """All voices, and the files that could not be read."""

    voices: list[VoiceEntry]
    problems: Mapping[str, str]


@get(["/voices", "/v1/voices"], summary="List voices", sync_to_thread=False)
def list_voices(voices: VoiceStore) -> VoiceList:
    """The voices in the home's `voices/` folder."""
    return VoiceList(
        voices=[
            VoiceEntry(
                id=voice_id,
                voice_id=voice_id,
                name=voice_id,
                style=voice.style,
                primary_speaker=voice.primary_speaker,
                has_audio_prompt=voice.audio_prompt is not None,
                preview_url=f"/preview/{voice_id}",
            )
            for voice_id, voice in voices.list().items()
        ],
        problems=voices.problems,
    )
