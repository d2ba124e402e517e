"""What the OpenAPI document says of many routes: how they refuse, what audio they send, which keys they take."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    Components,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType

from dia_server.audio.encode import FORMATS


class ErrorObject(msgspec.Struct):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(msgspec.Struct):
    """A refusal: what was wrong, what is allowed, what to do. `error` is there under `/v1`."""

    detail: str
    error: ErrorObject | msgspec.UnsetType = msgspec.UNSET


_REASONS = {
    400: "the request can't be served as it stands",
    401: "a key is missing or wrong",
    404: "what the request names is not there",
    413: "the body is too large",
    415: "the body is not of the type that the route takes",
    429: "too many requests; `Retry-After` says when the next one counts",
    500: "a bug; the server's log has more",
    503: "no work is taken now; `Retry-After` says when to try again",
}

KEYS = Components(
    security_schemes={
        "bearer": SecurityScheme(type="http", scheme="bearer"),
        "header": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
    }
)
ANY_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"header": []}]
# For routes that no key closes.
OPEN: list[dict[str, list[str]]] = [{}]

AUDIO_HEADERS = {
    "X-Seed": "the seed that was used",
    "X-Model": "the model that spoke",
    "X-Audio-Duration": "seconds; only where the clip is sent whole",
    "X-Unused-Parameters": "names of parameters that had no effect",
}


def failures(*statuses: int) -> dict[int, ResponseSpec]:
    """The ways in which a route refuses, for its `responses`."""
    return {
        status: ResponseSpec(ErrorAnswer, description=_REASONS[status], generate_examples=False) for status in statuses
    }


@dataclass
class AudioOperation(Operation):
    """A route that answers with audio."""

    def __post_init__(self) -> None:
        """Say so; Litestar's own way has room for one content type."""
        kinds = [kind.content_type.partition(";")[0] for kind in FORMATS.values()]
        answer = OpenAPIResponse(
            description="audio, in the format that was asked for",
            content={kind: _binary() for kind in kinds},
            headers={
                name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=text)
                for name, text in AUDIO_HEADERS.items()
            },
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


@dataclass
class EventOperation(AudioOperation):
    """A route that answers with audio, or with events that carry it."""

    def __post_init__(self) -> None:
        """Say so."""
        super().__post_init__()
        answer = (self.responses or {})[str(HTTPStatus.OK.value)]
        assert isinstance(answer, OpenAPIResponse)  # noqa: S101 - it is the one from above
        assert answer.content is not None  # noqa: S101 - likewise
        event = Schema(type=OpenAPIType.OBJECT, properties={"data": Schema(type=OpenAPIType.STRING)})
        answer.content["text/event-stream"] = OpenAPIMediaType(schema=event)


@dataclass
class TranscriptOperation(Operation):
    """A route that answers with a transcript."""

    def __post_init__(self) -> None:
        """Say so."""
        text = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING))
        transcript = Schema(
            type=OpenAPIType.OBJECT, properties={"text": Schema(type=OpenAPIType.STRING)}, required=["text"]
        )
        answer = OpenAPIResponse(
            description="the transcript, in the format that was asked for",
            content={"application/json": OpenAPIMediaType(schema=transcript), "text/plain": text},
            headers={"X-Model": OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description="what listened")},
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


def _binary() -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))
