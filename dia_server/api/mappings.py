"""Voices made, changed and removed: the Dia contract's mappings, OpenAI's custom voices, and previews of all."""

from __future__ import annotations

import re
import secrets
import time
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, delete, get, post, put
from litestar.datastructures import State
from litestar.types import ASGIApp

from dia_server.api.access import RATED
from dia_server.api.documents import WavOperation, failures, upload_of
from dia_server.api.fields import VoiceSeed
from dia_server.api.http import StreamedAnswer
from dia_server.api.prompts import Message
from dia_server.api.uploads import Uploads
from dia_server.api.voices import VoiceMapping, mapping_of
from dia_server.errors import BadInput
from dia_server.pool.pool import Pool
from dia_server.services.demands import Demands
from dia_server.services.mappings import Mappings
from dia_server.services.previews import Previews
from dia_server.services.prompts import Prompts
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore
from dia_server.voices.text import Voice

_NO_ID_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+|\.{2,}")
_ID_LENGTH = 64


class MappingFields(msgspec.Struct, kw_only=True):
    """A voice's fields; those that are absent stay as they are."""

    style: str | msgspec.UnsetType = msgspec.UNSET
    primary_speaker: Literal["S1", "S2"] | msgspec.UnsetType = msgspec.UNSET
    audio_prompt: Annotated[
        str | msgspec.UnsetType | None, msgspec.Meta(description="id of the recording to imitate")
    ] = msgspec.UNSET
    audio_prompt_transcript: str | msgspec.UnsetType | None = msgspec.UNSET
    voice_seed: VoiceSeed | msgspec.UnsetType | None = msgspec.UNSET

    def given(self) -> dict[str, Any]:
        """The fields that are there, by name."""
        return {
            name: value
            for name in MappingFields.__struct_fields__
            if (value := getattr(self, name)) is not msgspec.UNSET
        }


class NewMapping(MappingFields, kw_only=True):
    """A new voice."""

    voice_id: Annotated[str, msgspec.Meta(description="the new voice's id")]


class ChangedMapping(MappingFields, kw_only=True):
    """A voice's new fields; the id may be repeated."""

    voice_id: str | msgspec.UnsetType = msgspec.UNSET


class MappingAnswer(msgspec.Struct):
    """The voice as it is now; `warning` only where speech with it is refused for now."""

    message: str
    voice_config: VoiceMapping
    warning: str | msgspec.UnsetType = msgspec.UNSET


class CustomVoice(msgspec.Struct, kw_only=True):
    """OpenAI's custom voice; `warning` only where speech with it is refused for now."""

    id: str
    object: str = "audio.voice"
    name: str
    type: str = "audio_sample"
    created_at: int
    warning: str | msgspec.UnsetType = msgspec.UNSET


class DeletedVoice(msgspec.Struct, kw_only=True):
    """OpenAI's words for a voice that is gone."""

    id: str
    object: str = "audio.voice.deleted"
    deleted: bool = True


@post(
    ["/voice_mappings", "/v1/voice_mappings"],
    status_code=200,
    summary="Create a voice",
    responses=failures(400, 401, 409, 413, 415, 500, 503, 507),
)
async def create_mapping(data: NewMapping, mappings: Mappings, demands: Demands) -> MappingAnswer:
    """Make a voice, which is a file in `voices/`."""
    voice = await mappings.create(data.voice_id, data.given())
    return _answer(f"Voice '{data.voice_id}' created successfully", voice, demands)


@put(
    ["/voice_mappings/{voice_id:str}", "/v1/voice_mappings/{voice_id:str}"],
    summary="Change a voice",
    responses=failures(400, 401, 404, 413, 415, 500, 503, 507),
)
async def update_mapping(voice_id: str, data: ChangedMapping, mappings: Mappings, demands: Demands) -> MappingAnswer:
    """Change some fields of a voice; the others, and what only its file has, stay."""
    if data.voice_id not in (msgspec.UNSET, voice_id):
        raise BadInput(f"'voice_id' must be '{voice_id[:100]}' or absent; a voice keeps its id", param="voice_id")
    voice = await mappings.update(voice_id, data.given())
    return _answer(f"Voice '{voice_id}' updated successfully", voice, demands)


@delete(
    ["/voice_mappings/{voice_id:str}", "/v1/voice_mappings/{voice_id:str}"],
    status_code=200,
    summary="Delete a voice",
    responses=failures(400, 401, 404, 500, 503, 507),
)
async def delete_mapping(voice_id: str, mappings: Mappings) -> Message:
    """Remove a voice's file."""
    await mappings.delete(voice_id)
    return Message(f"Voice '{voice_id}' deleted successfully")


@post(
    "/v1/audio/voices",
    status_code=200,
    summary="Create a voice from a recording (OpenAI)",
    responses=failures(400, 401, 409, 413, 415, 500, 503, 507),
    operation_class=upload_of("audio_sample", required=("name", "consent")),
)
async def create_custom_voice(
    request: Request[Any, Any, State],
    settings: Settings,
    pool: Pool,
    uploads: Uploads,
    voices: VoiceStore,
    prompts: Prompts,
    mappings: Mappings,
    demands: Demands,
) -> CustomVoice:
    """Store a recording as a prompt and a voice of the same id that imitates it."""
    pool.check_room()
    async with uploads.receive(
        request,
        file_field="audio_sample",
        texts=("name", "consent"),
        max_bytes=settings.max_voice_sample_bytes,
    ) as form:
        name, consent = form.text("name"), form.text("consent")
        voice_id = _id_of(name)
        voices.check_free(voice_id)
        uploaded = await prompts.upload(voice_id, form.file, form.file_hash, consent=consent)
    try:
        await mappings.create(voice_id, {"audio_prompt": voice_id})
    except Exception:
        if uploaded.is_new:
            await prompts.delete(voice_id, force=False)
        raise
    return CustomVoice(
        id=voice_id, name=name, created_at=int(time.time()), warning=demands.unmet(voice_id) or msgspec.UNSET
    )


@delete(
    "/v1/audio/voices/{model:str}",
    status_code=200,
    summary="Delete a voice (OpenAI)",
    responses=failures(400, 401, 404, 500, 503, 507),
)
async def delete_custom_voice(model: str, prompts: Prompts, mappings: Mappings) -> DeletedVoice:
    """Remove a voice, here the path's last part, and the recording that came with it unless others imitate it."""
    voice = await mappings.delete(model)
    if voice.audio_prompt == model and not mappings.users_of(model):
        await prompts.delete(model, force=False)
    return DeletedVoice(id=model)


@get(
    ["/preview/{voice_id:str}", "/v1/preview/{voice_id:str}"],
    summary="Hear a voice",
    responses=failures(400, 401, 404, 429, 500, 503),
    operation_class=WavOperation,
    opt={RATED: True},
)
async def preview(voice_id: str, previews: Previews) -> ASGIApp:
    """A short sentence in a voice, always the same until the voice changes."""
    plan = await previews.plan(voice_id)
    headers = {
        "Content-Type": "audio/wav",
        "Content-Disposition": f"attachment; filename=preview_{plan.voice}.wav",
        "X-Seed": str(plan.seed),
        "X-Model": plan.model,
    }
    return StreamedAnswer(previews.stream(plan), lambda: headers, whole=True)


def _answer(message: str, voice: Voice, demands: Demands) -> MappingAnswer:
    warning = demands.unmet(voice.audio_prompt, voice.audio_prompt_transcript)
    return MappingAnswer(message, mapping_of(voice), warning or msgspec.UNSET)


def _id_of(name: str) -> str:
    """A voice's id that its name suggests."""
    found = _NO_ID_CHARACTERS.sub("_", name).strip("._-")[:_ID_LENGTH]
    return found or f"voice_{secrets.token_hex(4)}"
