"""OpenAI's routes: `POST /v1/audio/speech` and the list of models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, get, post
from litestar.datastructures import State
from litestar.types import ASGIApp

from dia_server.api.access import RATED
from dia_server.api.documents import OPEN, EventOperation, failures
from dia_server.api.events import speak_in_events
from dia_server.api.fields import AudioFormat, Sampling, Speed
from dia_server.api.http import speak
from dia_server.errors import BadInput, ModelNotFound
from dia_server.models import registry
from dia_server.models.protocol import Manifest
from dia_server.pool.choice import Choice
from dia_server.services.model_names import DEFAULT_MODEL_NAMES
from dia_server.services.plan import SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.speech import Speech
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore


class VoiceReference(msgspec.Struct):
    """A voice named the way OpenAI's clients name custom voices."""

    id: str


class SpeechOptions(Sampling, kw_only=True):
    """The fields that a request may leave out."""

    model: Annotated[str | None, msgspec.Meta(description="absent or `dia`: the default model")] = None
    response_format: Annotated[
        AudioFormat | None,
        msgspec.Meta(description="absent: wav when `model` is absent or `dia`, mp3 for every other name"),
    ] = None
    speed: Speed | None = None
    instructions: str | None = None
    stream_format: Literal["audio", "sse"] | None = None
    timestamp_granularities: Annotated[
        list[Literal["word"]] | None,
        msgspec.Meta(
            description="with `sse`: events that tell when each word is heard; in `X-Unused-Parameters` where the "
            "model can't tell"
        ),
    ] = None
    stream: Annotated[
        bool | None, msgspec.Meta(description="send wav as it is made, with open sizes in its header")
    ] = None

    def parameters(self) -> dict[str, Any]:
        """As for all that speak, and whether times are asked for, which not every model knows."""
        wanted = self.timestamp_granularities
        return super().parameters() | ({"timestamp_granularities": wanted} if wanted else {})


class SpeechBody(SpeechOptions, kw_only=True):
    """OpenAI's fields, and the Dia server's; unknown ones are ignored."""

    input: Annotated[
        str, msgspec.Meta(description="the text; `[S1]` and `[S2]` mark turns", examples=["[S1] Is it ready?"])
    ]
    voice: Annotated[
        str | VoiceReference | None,
        msgspec.Meta(
            description="id or alias of a voice; may be absent where `model` is one, as LocalAI's clients do",
            examples=["alloy"],
        ),
    ] = None
    params: Annotated[
        SpeechOptions | None, msgspec.Meta(description="values for fields that are absent or null beside it")
    ] = None

    def __post_init__(self) -> None:
        """Take from `params` what is lacking."""
        for name in SpeechOptions.__struct_fields__ if self.params else ():
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.params, name))


class ModelCard(msgspec.Struct):
    """A model as OpenAI lists it."""

    id: str
    created: int
    owned_by: str
    object: str = "model"
    unavailable: Annotated[
        str | None, msgspec.Meta(description="what of it is not installed here, and how to install it")
    ] = None


class ModelList(msgspec.Struct):
    """OpenAI's list shape."""

    data: list[ModelCard]
    object: str = "list"


class ModelName(msgspec.Struct):
    """A model as lists of audio models name it."""

    id: str
    name: str


class ModelDescription(ModelName):
    """A model as the Dia server lists it."""

    description: str


class DescribedModelList(msgspec.Struct):
    """The models as the Dia server lists them."""

    models: list[ModelDescription]


class AudioModelList(msgspec.Struct):
    """The models as Open WebUI asks for them."""

    models: list[ModelName]


@post(
    "/v1/audio/speech",
    status_code=200,
    summary="Speak a text",
    responses=failures(400, 401, 404, 413, 415, 429, 500, 503),
    operation_class=EventOperation,
    opt={RATED: True},
)
async def create_speech(
    request: Request[Any, Any, State],
    data: SpeechBody,
    planner: Planner,
    speech: Speech,
    voices: VoiceStore,
    settings: Settings,
) -> ASGIApp:
    """Speak `input` in a voice; the audio starts as soon as the first sentence is there."""
    in_events = data.stream_format == "sse"
    if data.timestamp_granularities and not in_events:
        raise BadInput(
            "timestamp_granularities needs stream_format 'sse': audio alone can't carry times",
            param="timestamp_granularities",
        )
    audio_format = data.response_format or ("wav" if data.model in (None, "", "dia") else "mp3")
    streamed = bool(data.stream) or data.stream_format is not None or audio_format != "wav"
    voice, model = _voice_and_model(data, voices, settings)
    wanted = SpeechRequest(
        text=data.input,
        voice=voice,
        format=audio_format,
        model=model,
        speed=data.speed or 1.0,
        seed=data.chosen_seed(),
        instructions=data.instructions or "",
        parameters=data.parameters(),
    )
    if in_events:
        with_words = bool(data.timestamp_granularities)
        return await speak_in_events(
            request, wanted, planner=planner, speech=speech, settings=settings, with_words=with_words
        )
    return await speak(request, wanted, planner=planner, speech=speech, settings=settings, whole=not streamed)


def _voice_and_model(data: SpeechBody, voices: VoiceStore, settings: Settings) -> tuple[str, str]:
    """The names of both.

    Raises:
        BadInput: no voice is named.
    """
    if data.voice is not None:
        return data.voice if isinstance(data.voice, str) else data.voice.id, data.model or "dia"
    if data.model and (data.model in voices.list() or data.model in settings.voice_aliases):
        return data.model, "dia"
    raise BadInput("'voice' is required", param="voice")


@get("/v1/models", summary="List models", security=OPEN, responses=failures(401), sync_to_thread=False)
def list_models(settings: Settings) -> ModelList:
    """All models; `dia` is the default one, whichever it is."""
    return ModelList([_card(name, settings) for name in _names()])


@get("/v1/models/{model:str}", summary="One model", responses=failures(400, 401, 404), sync_to_thread=False)
def get_model(model: str, settings: Settings) -> ModelCard:
    """One model of the list, or a name of OpenAI's for the default one."""
    if model not in _names() and model not in DEFAULT_MODEL_NAMES:
        raise ModelNotFound(f"Model '{model[:100]}' not found. Models: {', '.join(_names())}", param="model")
    return _card(model, settings)


@get("/v1/audio/models", summary="List models by name", security=OPEN, responses=failures(401), sync_to_thread=False)
def list_audio_models(settings: Settings) -> AudioModelList:
    """The models for a menu, as Open WebUI asks for them: those that are installed.

    `dia` is left out: it would answer in wav, which Open WebUI needs an FFmpeg of its own for.
    """
    shown = (name for name, manifest in registry.speaking().items() if not manifest.for_tests and name != "dia")
    return AudioModelList([ModelName(id=name, name=name) for name in shown if not _lacking(name, settings)])


@get("/models", summary="List models with descriptions", responses=failures(401), sync_to_thread=False)
def list_described_models(settings: Settings, choice: Choice) -> DescribedModelList:
    """All models; `dia` is the default one, whichever it is."""
    default = registry.manifest(choice.default(settings)[0])
    speaking = {"dia": default} | registry.speaking()
    return DescribedModelList(
        [ModelDescription(name, name, _described(manifest, settings)) for name, manifest in speaking.items()]
    )


def _names() -> list[str]:
    return ["dia", *(name for name in registry.speaking() if name != "dia")]


def _card(name: str, settings: Settings) -> ModelCard:
    # Models carry no date of their own; clients only want a number.
    return ModelCard(id=name, created=0, owned_by="dia-server", unavailable=_lacking(name, settings) or None)


def _lacking(name: str, settings: Settings) -> str:
    # The default one's name means whichever is there.
    return "" if name in DEFAULT_MODEL_NAMES else registry.lacking(name, settings.models)


def _described(manifest: Manifest, settings: Settings) -> str:
    lacking = registry.lacking(manifest.name, settings.models)
    return f"{manifest.description} Not installed here: {lacking}" if lacking else manifest.description
