"""OpenAI's routes: `POST /v1/audio/speech` and the list of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.types import ASGIApp

from dia_server.api.fields import AudioFormat, Sampling, Speed
from dia_server.api.http import speak
from dia_server.errors import BadInput, ModelNotFound
from dia_server.models import registry
from dia_server.services.plan import SpeechRequest
from dia_server.services.speech import Speech
from dia_server.settings import Settings


class VoiceReference(msgspec.Struct):
    """A voice named the way OpenAI's clients name custom voices."""

    id: str


class SpeechBody(Sampling, kw_only=True):
    """OpenAI's fields, and the Dia server's; unknown ones are ignored."""

    input: Annotated[str, msgspec.Meta(description="the text; `[S1]` and `[S2]` mark turns")]
    voice: Annotated[str | VoiceReference, msgspec.Meta(description="id or alias of a voice")]
    model: Annotated[str | None, msgspec.Meta(description="absent or `dia`: the default model")] = None
    response_format: Annotated[
        AudioFormat | None,
        msgspec.Meta(description="absent: wav when `model` is absent or `dia`, mp3 for every other name"),
    ] = None
    speed: Speed | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None
    stream: Annotated[
        bool | None, msgspec.Meta(description="send wav as it is made, with open sizes in its header")
    ] = None


class ModelCard(msgspec.Struct):
    """A model as OpenAI lists it."""

    id: str
    created: int
    owned_by: str
    object: str = "model"


class ModelList(msgspec.Struct):
    """OpenAI's list shape."""

    data: list[ModelCard]
    object: str = "list"


@post("/v1/audio/speech", status_code=200, summary="Speak a text")
async def create_speech(
    request: Request[Any, Any, State], data: SpeechBody, speech: Speech, settings: Settings
) -> ASGIApp:
    """Speak `input` in a voice; the audio starts as soon as the first sentence is there."""
    if data.stream_format == "sse":
        raise BadInput("stream_format 'sse' is not available; use 'audio'", param="stream_format")
    model = data.model or "dia"
    audio_format = data.response_format or ("wav" if model == "dia" else "mp3")
    streamed = bool(data.stream) or data.stream_format is not None or audio_format != "wav"
    return speak(
        request,
        SpeechRequest(
            text=data.input,
            voice=data.voice if isinstance(data.voice, str) else data.voice.id,
            format=audio_format,
            model=model,
            speed=data.speed or 1.0,
            seed=data.chosen_seed(),
            instructions=data.instructions or "",
            parameters=data.parameters(),
        ),
        speech=speech,
        settings=settings,
        whole=not streamed,
    )


@get("/v1/models", summary="List models", sync_to_thread=False)
def list_models() -> ModelList:
    """The installed models; `dia` is the default one, whichever it is."""
    return ModelList([_card("dia"), *(_card(name) for name in registry.manifests() if name != "dia")])


@get("/v1/models/{model:str}", summary="One model", sync_to_thread=False)
def get_model(model: str) -> ModelCard:
    """One model of the list."""
    if model != "dia" and model not in registry.manifests():
        known = ", ".join(["dia", *registry.manifests()])
        raise ModelNotFound(f"Model '{model[:100]}' not found. Models: {known}", param="model")
    return _card(model)


def _card(name: str) -> ModelCard:
    # Models carry no date of their own; clients only want a number.
    return ModelCard(id=name, created=0, owned_by="dia-server")
