"""Lists of voices, in the shapes that clients ask for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from litestar import get

from dia_server.api.documents import OPEN, failures
from dia_server.services.casting import missing
from dia_server.settings import Settings
from dia_server.voices.prompts import PromptStore
from dia_server.voices.store import VoiceStore
from dia_server.voices.text import Voice


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
    """All voices; the files that could not be read, and those that name what is not there."""

    voices: list[VoiceEntry]
    problems: Mapping[str, str]


class VoiceName(msgspec.Struct):
    """A voice or an alias; Open WebUI reads both fields."""

    id: str
    name: str


class AudioVoiceList(msgspec.Struct):
    """Voices and aliases: with both fields, or by name alone."""

    voices: list[VoiceName | str]


class VoiceChoice(msgspec.Struct):
    """An entry of a menu."""

    value: str
    label: str


class VoiceMenu(msgspec.Struct):
    """Voices and aliases as SillyTavern's provider for TTS WebUI reads them."""

    voices: list[VoiceChoice]


class VoiceMapping(msgspec.Struct, kw_only=True):
    """A voice's own fields as the Dia contract has them; `voice_id` only where the mappings are a list."""

    voice_id: str | msgspec.UnsetType = msgspec.UNSET
    style: str
    primary_speaker: str
    audio_prompt: str | None
    audio_prompt_transcript: str | None
    voice_seed: int | None


@get(["/voices", "/v1/voices"], summary="List voices", security=OPEN, responses=failures(401), sync_to_thread=False)
def list_voices(voices: VoiceStore, prompt_store: PromptStore, settings: Settings) -> VoiceList:
    """The voices in the home's `voices/` folder."""
    there, prompts = voices.list(), prompt_store.list()
    lacking = {f"{name}.yaml": missing(voice, there, prompts, settings.voice_aliases) for name, voice in there.items()}
    return VoiceList(
        voices=[
            VoiceEntry(
                id=voice_id,
                voice_id=voice_id,
                name=voice_id,
                style=voice.style,
                primary_speaker=voice.primary_speaker,
                has_audio_prompt=voice.audio_prompt in prompts,
                preview_url=f"/preview/{voice_id}",
            )
            for voice_id, voice in there.items()
        ],
        problems={**voices.problems, **{file: words for file, words in lacking.items() if words}},
    )


@get(
    "/v1/audio/voices",
    summary="List voices and aliases",
    security=OPEN,
    responses=failures(400, 401),
    sync_to_thread=False,
)
def list_audio_voices(voices: VoiceStore, settings: Settings, legacy: bool = False) -> AudioVoiceList:
    """The voices, then the aliases that stand for one of them; with `?legacy=true` their names alone."""
    return AudioVoiceList([name if legacy else VoiceName(id=name, name=name) for name in _names(voices, settings)])


@get(
    "/v1/audio/voices/{model:str}",
    summary="List voices for a menu",
    responses=failures(400, 401),
    sync_to_thread=False,
)
def list_voices_of_model(model: str, voices: VoiceStore, settings: Settings) -> VoiceMenu:
    """The voices and aliases; every model speaks with all of them."""
    del model
    return VoiceMenu([VoiceChoice(value=name, label=name) for name in _names(voices, settings)])


@get("/voice_mappings", summary="Voice mappings by id", responses=failures(401), sync_to_thread=False)
def voice_mappings(voices: VoiceStore) -> dict[str, VoiceMapping]:
    """Every voice's own fields, by its id."""
    return {voice_id: mapping_of(voice) for voice_id, voice in voices.list().items()}


@get("/v1/voice_mappings", summary="Voice mappings as a list", responses=failures(401), sync_to_thread=False)
def voice_mapping_list(voices: VoiceStore) -> list[VoiceMapping]:
    """The same as a list, which an older provider loops over."""
    return [mapping_of(voice, voice_id) for voice_id, voice in voices.list().items()]


def _names(voices: VoiceStore, settings: Settings) -> list[str]:
    there = voices.list()
    aliases = [alias for alias, target in settings.voice_aliases.items() if target in there and alias not in there]
    return [*there, *aliases]


def mapping_of(voice: Voice, voice_id: str | msgspec.UnsetType = msgspec.UNSET) -> VoiceMapping:
    """A voice's own fields."""
    return VoiceMapping(
        voice_id=voice_id,
        style=voice.style,
        primary_speaker=voice.primary_speaker,
        audio_prompt=voice.audio_prompt,
        audio_prompt_transcript=voice.audio_prompt_transcript,
        voice_seed=voice.voice_seed,
    )
