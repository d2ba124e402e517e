"""Audio prompts: recordings of voices to imitate."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State

from dia_server.api.documents import WavOperation, failures, upload_of
from dia_server.api.uploads import Uploads
from dia_server.audio.wav import peaks
from dia_server.errors import PromptNotFound
from dia_server.pool.pool import Pool
from dia_server.services.demands import Demands
from dia_server.services.discovery import Discovery
from dia_server.services.prompts import Prompts
from dia_server.settings import Settings
from dia_server.voices.prompts import FOLDER, Prompt, PromptStore

# As many bars as a picture of a recording is wide in a list.
WAVEFORM_PEAKS = 200


class UploadAnswer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The Dia contract's answer; `transcript` and `warning` only where there is one."""

    message: str
    duration: float
    sample_rate: int
    original_sample_rate: int
    channels: str
    transcript: str | None = None
    warning: str | None = None


class PromptEntry(msgspec.Struct, kw_only=True):
    """A prompt in the list; the path is relative to the home."""

    file_path: str
    duration: float
    sample_rate: int
    exists: bool


class PromptMetadata(msgspec.Struct, kw_only=True):
    """What is known of a prompt; `hash` and `discovered_at` are null for a file that was only just put there."""

    prompt_id: str
    file_path: str
    duration: float
    sample_rate: int
    transcript: str | None
    transcript_source: str | None
    hash: str | None
    discovered_at: str | None


class PromptDetails(PromptMetadata, kw_only=True):
    """The same with what a page shows of a recording: `waveform` has peaks from 0 to 1."""

    original_sample_rate: int
    channels: str
    waveform: list[float]


class DiscoverBody(msgspec.Struct, kw_only=True):
    """`force_retranscribe` replaces transcripts that are there, those corrected by hand too."""

    force_retranscribe: bool = False


class DiscoverAnswer(msgspec.Struct):
    """The prompts that are new or newly transcribed."""

    message: str
    total_prompts: int
    discovered: list[PromptMetadata]


class Message(msgspec.Struct):
    """It is done."""

    message: str


@post(
    ["/audio_prompts/upload", "/v1/audio_prompts/upload"],
    status_code=200,
    summary="Upload an audio prompt",
    responses=failures(400, 401, 409, 413, 415, 500, 503, 507),
    operation_class=upload_of("audio_file", required=("prompt_id",), optional=("overwrite",)),
)
async def upload_prompt(
    request: Request[Any, Any, State],
    settings: Settings,
    pool: Pool,
    uploads: Uploads,
    prompts: Prompts,
    discovery: Discovery,
    demands: Demands,
) -> UploadAnswer:
    """Store a recording (wav, mp3, flac, ogg, m4a, aac, webm) as a prompt for voices to imitate.

    With `auto_transcribe` the answer waits two seconds for the transcript; one that takes longer comes later.
    """
    pool.check_room()
    async with uploads.receive(
        request, file_field="audio_file", texts=("prompt_id", "overwrite"), max_bytes=settings.max_upload_bytes
    ) as form:
        prompt_id = form.text("prompt_id")
        uploaded = await prompts.upload(prompt_id, form.file, form.file_hash, overwrite=form.flag("overwrite"))
    prompt = uploaded.prompt
    transcript = prompt.transcript or await discovery.heard(prompt_id, prompt)
    warnings = [each for each in (uploaded.warning, demands.unmet(prompt_id)) if each]
    return UploadAnswer(
        message=f"Audio prompt '{prompt_id}' uploaded successfully",
        duration=_duration(prompt),
        sample_rate=prompt.sound.sample_rate,
        original_sample_rate=_original_rate(prompt),
        channels=_channels(prompt),
        transcript=transcript,
        warning="; ".join(warnings) or None,
    )


@get(
    ["/audio_prompts", "/v1/audio_prompts"],
    summary="List audio prompts",
    responses=failures(401),
    sync_to_thread=False,
)
def list_prompts(prompt_store: PromptStore) -> dict[str, PromptEntry]:
    """All prompts by id."""
    return {
        prompt_id: PromptEntry(
            file_path=_path(prompt),
            duration=_duration(prompt),
            sample_rate=prompt.sound.sample_rate,
            exists=True,
        )
        for prompt_id, prompt in prompt_store.list().items()
    }


@get(
    ["/audio_prompts/metadata", "/v1/audio_prompts/metadata"],
    summary="What is known of all audio prompts",
    responses=failures(401),
    sync_to_thread=False,
)
def list_metadata(prompt_store: PromptStore) -> dict[str, PromptMetadata]:
    """Metadata by id."""
    return {prompt_id: _metadata(prompt_id, prompt) for prompt_id, prompt in prompt_store.list().items()}


@get(
    ["/audio_prompts/metadata/{prompt_id:str}", "/v1/audio_prompts/metadata/{prompt_id:str}"],
    summary="What is known of an audio prompt",
    responses=failures(400, 401, 404),
    sync_to_thread=False,
)
def get_metadata(prompt_id: str, prompt_store: PromptStore) -> PromptMetadata:
    """Metadata of one prompt."""
    return _metadata(prompt_id, prompt_store.get(prompt_id))


@get(
    ["/audio_prompts/{prompt_id:str}", "/v1/audio_prompts/{prompt_id:str}"],
    summary="An audio prompt",
    responses=failures(400, 401, 404),
)
async def get_prompt(prompt_id: str, prompt_store: PromptStore) -> PromptDetails:
    """Metadata of one prompt, and what its recording looks like."""
    prompt = prompt_store.get(prompt_id)
    try:
        waveform = await asyncio.to_thread(peaks, prompt.path, WAVEFORM_PEAKS)
    except (FileNotFoundError, ValueError):
        raise _gone(prompt_id) from None
    return PromptDetails(
        **msgspec.structs.asdict(_metadata(prompt_id, prompt)),
        original_sample_rate=_original_rate(prompt),
        channels=_channels(prompt),
        waveform=waveform,
    )


@get(
    ["/audio_prompts/{prompt_id:str}/audio", "/v1/audio_prompts/{prompt_id:str}/audio"],
    summary="The sound of an audio prompt",
    media_type="audio/wav",
    responses=failures(400, 401, 404),
    operation_class=WavOperation,
)
async def get_audio(prompt_id: str, prompt_store: PromptStore) -> Response[bytes]:
    """The wav file."""
    prompt = prompt_store.get(prompt_id)
    try:
        sound = await asyncio.to_thread(prompt.path.read_bytes)
    except FileNotFoundError:
        raise _gone(prompt_id) from None
    headers = {"Content-Disposition": f"attachment; filename={prompt.path.name}"}
    return Response(sound, media_type="audio/wav", headers=headers)


@delete(
    ["/audio_prompts/{prompt_id:str}", "/v1/audio_prompts/{prompt_id:str}"],
    status_code=200,
    summary="Delete an audio prompt",
    responses=failures(400, 401, 404, 409, 500, 503, 507),
)
async def delete_prompt(prompt_id: str, prompts: Prompts, force: bool = False) -> Message:
    """Remove a prompt that no voice imitates; with `?force=true` any."""
    await prompts.delete(prompt_id, force=force)
    return Message(f"Audio prompt '{prompt_id}' deleted successfully")


@post(
    ["/audio_prompts/discover", "/v1/audio_prompts/discover"],
    status_code=200,
    summary="Discover audio prompts",
    responses=failures(400, 401, 413, 415, 500, 503, 507),
)
async def discover(prompts: Prompts, prompt_store: PromptStore, data: DiscoverBody | None = None) -> DiscoverAnswer:
    """Take note of the wav files that were put into `audio_prompts/`, with their transcripts; the body is optional."""
    found = await prompts.discover(force=bool(data and data.force_retranscribe))
    there = prompt_store.list()
    problems = "".join(f"; {name} can't be used: {reason}" for name, reason in found.problems.items())
    return DiscoverAnswer(
        message=f"Discovered {len(found.prompt_ids)} audio prompts{problems}",
        total_prompts=len(there),
        discovered=[_metadata(name, there[name]) for name in found.prompt_ids if name in there],
    )


def _metadata(prompt_id: str, prompt: Prompt) -> PromptMetadata:
    return PromptMetadata(
        prompt_id=prompt_id,
        file_path=_path(prompt),
        duration=_duration(prompt),
        sample_rate=prompt.sound.sample_rate,
        transcript=prompt.transcript,
        transcript_source=prompt.transcript_source,
        hash=prompt.origin.hash if prompt.origin else None,
        discovered_at=prompt.origin.discovered_at if prompt.origin else None,
    )


def _path(prompt: Prompt) -> str:
    return f"{FOLDER}/{prompt.path.name}"


def _duration(prompt: Prompt) -> float:
    return round(prompt.sound.seconds, 3)


def _original_rate(prompt: Prompt) -> int:
    return prompt.origin.original_sample_rate if prompt.origin else prompt.sound.sample_rate


def _channels(prompt: Prompt) -> str:
    return "mono" if prompt.sound.channels == 1 else f"{prompt.sound.channels} channels"


def _gone(prompt_id: str) -> PromptNotFound:
    return PromptNotFound(f"Audio prompt '{prompt_id}' was changed just now; ask again")
