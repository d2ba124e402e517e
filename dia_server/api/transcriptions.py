"""OpenAI's routes for what is said in a recording: `POST /v1/audio/transcriptions` and `/v1/audio/translations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State

from dia_server.api.access import RATED
from dia_server.api.bodies import explain
from dia_server.api.documents import TRANSCRIPT, failures, upload_of
from dia_server.api.http import while_connected
from dia_server.api.uploads import Uploads
from dia_server.errors import BadInput
from dia_server.models.whisper.languages import LANGUAGES
from dia_server.services.account import TimedWord
from dia_server.services.captions import Caption, srt, vtt
from dia_server.services.transcription import TranscribedSegment, Transcript, Transcription, TranscriptionRequest
from dia_server.settings import Settings

FILE = "file"
TRANSLATION_FIELDS = ("model", "prompt", "response_format", "temperature")
LISTS = ("timestamp_granularities", "timestamp_granularities[]")
TRANSCRIPTION_FIELDS = (*TRANSLATION_FIELDS, "language", "stream", *LISTS)
TEXT = "text/plain"

ResponseFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]


class Fields(msgspec.Struct, kw_only=True):
    """OpenAI's fields beside the file; `model` may say anything, since the settings name the weights."""

    prompt: str | None = None
    response_format: ResponseFormat = "json"
    temperature: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    language: str | None = None
    timestamp_granularities: list[Literal["word", "segment"]] = []
    stream: bool = False

    def __post_init__(self) -> None:
        """Refuse what goes together with another format only.

        Raises:
            BadInput: times are asked for where there is no place for them, or events of a file's format.
        """
        if self.stream and self.response_format not in ("json", "text"):
            raise BadInput("stream needs response_format 'json' or 'text'", param="stream")
        if self.timestamp_granularities and self.response_format != "verbose_json":
            raise BadInput(
                "timestamp_granularities needs response_format 'verbose_json'", param="timestamp_granularities"
            )


class TextDelta(msgspec.Struct, tag_field="type", tag="transcript.text.delta"):
    """With `stream`: some of the text."""

    delta: str


class TextDone(msgspec.Struct, tag_field="type", tag="transcript.text.done"):
    """With `stream`: all of the text."""

    text: str


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
    responses=failures(400, 401, 413, 415, 429, 500, 503, 507),
    operation_class=upload_of(FILE, optional=TRANSCRIPTION_FIELDS, answer=TRANSCRIPT),
    opt={RATED: True},
)
async def create_transcription(
    request: Request[Any, Any, State], settings: Settings, uploads: Uploads, transcription: Transcription
) -> Response[bytes]:
    """Write down what is said in `file`: wav, mp3, flac, ogg, m4a, aac or webm."""

    def wanted(fields: Fields) -> TranscriptionRequest:
        return TranscriptionRequest(
            language=fields.language,
            prompt=fields.prompt,
            temperature=fields.temperature,
            with_words="word" in fields.timestamp_granularities,
        )

    return await _write_down(request, settings, uploads, transcription, TRANSCRIPTION_FIELDS, wanted)


@post(
    "/v1/audio/translations",
    status_code=200,
    summary="Write down a recording in English",
    responses=failures(400, 401, 413, 415, 429, 500, 503, 507),
    operation_class=upload_of(FILE, optional=TRANSLATION_FIELDS, answer=TRANSCRIPT),
    opt={RATED: True},
)
async def create_translation(
    request: Request[Any, Any, State], settings: Settings, uploads: Uploads, transcription: Transcription
) -> Response[bytes]:
    """Write down in English what is said in `file`, in whatever language."""

    def wanted(fields: Fields) -> TranscriptionRequest:
        return TranscriptionRequest(prompt=fields.prompt, temperature=fields.temperature, is_translation=True)

    return await _write_down(request, settings, uploads, transcription, TRANSLATION_FIELDS, wanted)


async def _write_down(
    request: Request[Any, Any, State],
    settings: Settings,
    uploads: Uploads,
    transcription: Transcription,
    texts: tuple[str, ...],
    wanted: Callable[[Fields], TranscriptionRequest],
) -> Response[bytes]:
    """The answer to a form with a recording and such texts, which `wanted` understands."""
    transcription.check()
    async with uploads.receive(request, file_field=FILE, texts=texts, max_bytes=settings.max_upload_bytes) as form:
        fields = decode_fields(form.texts)
        listening = wanted(fields)
        transcript = await while_connected(request, transcription.listen_to_upload(form.file, listening))
    return _answer(request, transcript, fields, listening)


def decode_fields(texts: Mapping[str, str]) -> Fields:
    """A form's texts as what they mean; empty ones are absent.

    Raises:
        BadInput: one is wrong; `param` names it.
    """
    given: dict[str, Any] = {name: text for name, text in texts.items() if text.strip() and name not in LISTS}
    granularities = [each for name in LISTS for each in texts.get(name, "").split(",") if each]
    try:
        return msgspec.convert(given | {LISTS[0]: granularities}, Fields, strict=False)
    except msgspec.ValidationError as error:
        raise explain(str(error), Fields) from None


def _answer(
    request: Request[Any, Any, State], transcript: Transcript, fields: Fields, wanted: TranscriptionRequest
) -> Response[bytes]:
    model = f"whisper-{transcript.size}"
    request.scope["state"]["log"] |= {"model": model, "audio_seconds": round(transcript.seconds, 3)}
    return Response(
        _render(transcript, fields, wanted),
        media_type=_media_type(fields),
        headers={"X-Model": model},
    )


def _media_type(fields: Fields) -> str:
    if fields.stream:
        return "text/event-stream"
    return "application/json" if "json" in fields.response_format else TEXT


def _events(transcript: Transcript) -> Iterator[TextDelta | TextDone]:
    for number, segment in enumerate(transcript.segments):
        yield TextDelta(f" {segment.text}" if number else segment.text)
    yield TextDone(transcript.text)


def _render(transcript: Transcript, fields: Fields, wanted: TranscriptionRequest) -> bytes:
    if fields.stream:
        return b"".join(b"data: %s\n\n" % msgspec.json.encode(event) for event in _events(transcript))
    match fields.response_format:
        case "text":
            return f"{transcript.text}\n".encode()
        case "srt":
            return srt(_captions(transcript)).encode()
        case "vtt":
            return vtt(_captions(transcript)).encode()
    answer = TranscriptAnswer(transcript.text, Usage(transcript.seconds))
    if fields.response_format == "verbose_json":
        answer.task = "translate" if wanted.is_translation else "transcribe"
        answer.language = "english" if wanted.is_translation else LANGUAGES[transcript.language]
        answer.duration = transcript.seconds
        if not fields.timestamp_granularities or "segment" in fields.timestamp_granularities:
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
