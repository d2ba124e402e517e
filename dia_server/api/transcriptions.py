"""OpenAI's routes for what is said in a recording: `POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.datastructures import State, UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.types import ASGIApp

from dia_server.api.access import RATED
from dia_server.api.documents import TranscriptOperation, failures
from dia_server.api.forms import FormBody, only_forms
from dia_server.api.http import StreamedAnswer
from dia_server.errors import BadInput
from dia_server.models.whisper.languages import LANGUAGES
from dia_server.services.captions import Caption, srt, vtt
from dia_server.services.speech import TimedWord
from dia_server.services.transcription import TranscribedSegment, Transcript, Transcription, TranscriptionRequest

# Fields that a form may have, known or not; OpenAI's clients send a dozen.
MAX_PARTS = 64
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class TranslationForm(msgspec.Struct, kw_only=True):
    """OpenAI's fields; unknown ones are ignored."""

    file: Annotated[UploadFile, msgspec.Meta(description="a sound file: wav, mp3, flac, ogg, m4a, aac or webm")]
    model: Annotated[str, msgspec.Meta(description="any; the settings name the weights, and `X-Model` tells them")] = (
        "whisper-1"
    )
    prompt: Annotated[str | None, msgspec.Meta(description="words that set the style, or names that occur")] = None
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0


class TranscriptionForm(TranslationForm, kw_only=True):
    """OpenAI's fields; unknown ones are ignored."""

    language: Annotated[
        str | None, msgspec.Meta(description="what is spoken, such as `en`; absent: found out", examples=["en"])
    ] = None
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]] | None,
        msgspec.Meta(description="with `verbose_json`; `timestamp_granularities[]` is the same"),
    ] = None


class Usage(msgspec.Struct):
    """What OpenAI would charge for."""

    seconds: float
    type: str = "duration"


class Segment(msgspec.Struct):
    """OpenAI's segment."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class TranscriptAnswer(msgspec.Struct):
    """OpenAI's transcript; `json` has the text and the usage alone."""

    text: str
    usage: Usage
    task: Literal["transcribe", "translate"] | msgspec.UnsetType = msgspec.UNSET
    language: str | msgspec.UnsetType = msgspec.UNSET
    duration: float | msgspec.UnsetType = msgspec.UNSET
    segments: list[Segment] | msgspec.UnsetType = msgspec.UNSET
    words: list[TimedWord] | msgspec.UnsetType = msgspec.UNSET


@post(
    "/v1/audio/transcriptions",
    status_code=200,
    summary="Write down a recording",
    responses=failures(400, 401, 413, 415, 429, 500, 503),
    operation_class=TranscriptOperation,
    dto=FormBody,
    guards=[only_forms],
    opt={RATED: True},
)
async def create_transcription(
    request: Request[Any, Any, State],
    data: Annotated[
        TranscriptionForm, Body(media_type=RequestEncodingType.MULTI_PART, multipart_form_part_limit=MAX_PARTS)
    ],
    transcription: Transcription,
) -> ASGIApp:
    """Write down what is said in `file`."""
    if data.timestamp_granularities and data.response_format != "verbose_json":
        raise BadInput("timestamp_granularities needs response_format 'verbose_json'", param="timestamp_granularities")
    granularities = data.timestamp_granularities or ["segment"]
    wanted = TranscriptionRequest(
        language=data.language,
        prompt=data.prompt,
        temperature=data.temperature,
        with_words="word" in granularities,
    )
    return _answer(request, data, wanted, transcription, with_segments="segment" in granularities)


@post(
    "/v1/audio/translations",
    status_code=200,
    summary="Write down a recording in English",
    responses=failures(400, 401, 413, 415, 429, 500, 503),
    operation_class=TranscriptOperation,
    dto=FormBody,
    guards=[only_forms],
    opt={RATED: True},
)
async def create_translation(
    request: Request[Any, Any, State],
    data: Annotated[
        TranslationForm, Body(media_type=RequestEncodingType.MULTI_PART, multipart_form_part_limit=MAX_PARTS)
    ],
    transcription: Transcription,
) -> ASGIApp:
    """Write down in English what is said in `file`, in whatever language."""
    wanted = TranscriptionRequest(prompt=data.prompt, temperature=data.temperature, is_translation=True)
    return _answer(request, data, wanted, transcription, with_segments=True)


def _answer(
    request: Request[Any, Any, State],
    data: TranslationForm,
    wanted: TranscriptionRequest,
    transcription: Transcription,
    *,
    with_segments: bool,
) -> ASGIApp:
    transcription.check(wanted)
    log = request.scope["state"]["log"]

    async def body() -> AsyncGenerator[bytes, None]:
        transcript = await transcription.transcribe_upload(data.file.file, wanted)
        log["model"], log["audio_seconds"] = f"whisper-{transcript.size}", round(transcript.seconds, 3)
        yield _render(transcript, data.response_format, wanted, with_segments=with_segments)

    def headers() -> dict[str, str]:
        return {"Content-Type": JSON if "json" in data.response_format else TEXT, "X-Model": log["model"]}

    return StreamedAnswer(body(), headers, whole=True)


def _render(
    transcript: Transcript, response_format: ResponseFormat, wanted: TranscriptionRequest, *, with_segments: bool
) -> bytes:
    match response_format:
        case "text":
            return f"{transcript.text}\n".encode()
        case "srt":
            return srt(_captions(transcript)).encode()
        case "vtt":
            return vtt(_captions(transcript)).encode()
    answer = TranscriptAnswer(transcript.text, Usage(transcript.seconds))
    if response_format == "verbose_json":
        answer.task = "translate" if wanted.is_translation else "transcribe"
        answer.language = "english" if wanted.is_translation else LANGUAGES[transcript.language]
        answer.duration = transcript.seconds
        if with_segments:
            answer.segments = [_segment(number, segment) for number, segment in enumerate(transcript.segments)]
        if wanted.with_words:
            answer.words = [word for segment in transcript.segments for word in segment.words]
    return msgspec.json.encode(answer)


def _captions(transcript: Transcript) -> Iterator[Caption]:
    for segment in transcript.segments:
        yield Caption(segment.start, segment.end, segment.text)


def _segment(number: int, segment: TranscribedSegment) -> Segment:
    fields = {name: getattr(segment, name) for name in Segment.__struct_fields__ if name != "id"}
    return Segment(id=number, **fields)
