"""The Dia server's routes for Whisper: is it there, and load it."""

from __future__ import annotations

import msgspec
from litestar import get, post

from dia_server.api.documents import failures
from dia_server.services.transcription import Transcription
from dia_server.settings import Settings


class WhisperStatus(msgspec.Struct):
    """The Dia contract's fields; `model_size` is what listened last while it is loaded, else what the settings name."""

    available: bool
    model_loaded: bool
    model_size: str
    auto_transcribe: bool


class WhisperLoaded(msgspec.Struct):
    """What was loaded."""

    message: str
    model_size: str


@get(["/whisper/status", "/v1/whisper/status"], summary="Whisper", responses=failures(401), sync_to_thread=False)
def whisper_status(transcription: Transcription, settings: Settings) -> WhisperStatus:
    """Whether recordings can be written down here, and by which weights."""
    return WhisperStatus(
        available=transcription.is_available,
        model_loaded=transcription.is_loaded,
        model_size=transcription.size,
        auto_transcribe=settings.auto_transcribe,
    )


@post(
    ["/whisper/load", "/v1/whisper/load"],
    status_code=200,
    summary="Load Whisper",
    responses=failures(401, 500, 503),
)
async def load_whisper(transcription: Transcription) -> WhisperLoaded:
    """Load Whisper ahead of its first use; it goes again after the `idle_timeout` of its lane."""
    size = await transcription.load()
    return WhisperLoaded(f"Whisper model '{size}' loaded", size)
