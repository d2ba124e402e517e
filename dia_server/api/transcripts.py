"""What is said in audio prompts: written by people, or by Whisper when asked to."""

from __future__ import annotations

import msgspec
from litestar import post, put

from dia_server.api.documents import failures
from dia_server.errors import BadInput
from dia_server.services.demands import Demands
from dia_server.services.prompts import Prompts
from dia_server.voices.prompts import FOLDER


class TranscriptBody(msgspec.Struct, kw_only=True):
    """What is said in the recording; `prompt_id` may repeat the path's."""

    transcript: str
    prompt_id: str | None = None


class TranscriptAnswer(msgspec.Struct):
    """Which voices learned of the new transcript; `warning` only where speech with it is refused for now."""

    message: str
    prompt_id: str
    updated_voices: list[str]
    warning: str | msgspec.UnsetType = msgspec.UNSET


class TranscribeBody(msgspec.Struct, kw_only=True):
    """`force_retranscribe` replaces a transcript that somebody wrote."""

    force_retranscribe: bool = False


class TranscribeAnswer(msgspec.Struct):
    """What Whisper heard, and the file that has it, relative to the home."""

    prompt_id: str
    transcript: str
    saved_to: str


@put(
    ["/audio_prompts/{prompt_id:str}/transcript", "/v1/audio_prompts/{prompt_id:str}/transcript"],
    summary="Correct a transcript",
    responses=failures(400, 401, 404, 413, 415, 500, 503, 507),
)
async def put_transcript(prompt_id: str, data: TranscriptBody, prompts: Prompts, demands: Demands) -> TranscriptAnswer:
    """Say what is said in a recording; the voices that imitate it learn of it."""
    if data.prompt_id not in (None, prompt_id):
        raise BadInput(f"'prompt_id' must be '{prompt_id[:100]}' or absent", param="prompt_id")
    updated = await prompts.correct(prompt_id, data.transcript)
    return TranscriptAnswer(
        f"Transcript of audio prompt '{prompt_id}' updated successfully",
        prompt_id,
        updated,
        demands.unmet(prompt_id) or msgspec.UNSET,
    )


@post(
    ["/audio_prompts/{prompt_id:str}/transcribe", "/v1/audio_prompts/{prompt_id:str}/transcribe"],
    status_code=200,
    summary="Transcribe an audio prompt",
    responses=failures(400, 401, 404, 409, 413, 415, 500, 503, 507),
)
async def transcribe_prompt(prompt_id: str, prompts: Prompts, data: TranscribeBody | None = None) -> TranscribeAnswer:
    """Have Whisper write down what is said in a recording; the body is optional."""
    transcript = await prompts.transcribe(prompt_id, force=bool(data and data.force_retranscribe))
    return TranscribeAnswer(prompt_id, transcript, f"{FOLDER}/{prompt_id}.txt")
