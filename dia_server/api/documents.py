"""What the OpenAPI document says of many routes: how they refuse, what audio they send, which keys they take."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    Components,
    Link,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
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
    409: "what is there stands in the way: a name is taken or in use, or a file was changed by hand",
    413: "the body is too large",
    415: "the body is of another type than the route takes",
    425: "the job is not completed",
    429: "too many requests; `Retry-After` says when the next one counts",
    500: "a bug; the server's log has more",
    503: "no work is taken now; `Retry-After` says when to try again",
    507: "the disk is full",
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


# What can be done with a job and with a clip, by their routes, with `/` as JSON pointers write it.
JOB_LINKS = {
    "job": "~1jobs~1{job_id}/get",
    "watch": "~1jobs~1{job_id}~1events/get",
    "result": "~1jobs~1{job_id}~1result/get",
    "cancel": "~1jobs~1{job_id}/delete",
}
TASK_LINKS = {
    "task": "~1tts~1{task_id}/get",
    "audio": "~1tts~1{task_id}~1audio/get",
    "delete": "~1tts~1{task_id}/delete",
}
LOG_LINKS = {
    "clip": "~1logs~1{log_id}/get",
    "audio": "~1logs~1{log_id}~1download/get",
    "forget": "~1logs~1{log_id}/delete",
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
            headers=_headers(*AUDIO_HEADERS),
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}

    def _add(self, kind: str, schema: Schema) -> OpenAPIResponse:
        """Another content type of the same answer."""
        answer = (self.responses or {})[str(HTTPStatus.OK.value)]
        assert isinstance(answer, OpenAPIResponse)  # noqa: S101 - it is the one from above
        assert answer.content is not None  # noqa: S101 - likewise
        answer.content[kind] = OpenAPIMediaType(schema=schema)
        return answer


@dataclass
class GenerateOperation(AudioOperation):
    """A route that answers with audio, or with the job that will make it."""

    def __post_init__(self) -> None:
        """Say so."""
        super().__post_init__()
        text = Schema(type=OpenAPIType.STRING)
        job = Schema(
            type=OpenAPIType.OBJECT,
            properties={"job_id": text, "status": text, "message": text},
            required=["job_id", "status", "message"],
        )
        answer = self._add("application/json", job)
        answer.links = _links(JOB_LINKS, "job_id", "$response.body#/job_id")


@dataclass
class WelcomeOperation(Operation):
    """A route that answers programs with JSON, and browsers with a page."""

    def __post_init__(self) -> None:
        """Say so."""
        text = Schema(type=OpenAPIType.STRING)
        welcome = Schema(type=OpenAPIType.OBJECT, properties={"message": text, "status": text})
        answer = OpenAPIResponse(
            description="what this is",
            content={
                "application/json": OpenAPIMediaType(schema=welcome),
                "text/html": OpenAPIMediaType(schema=text),
            },
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


def leading_to(routes: dict[str, str], parameter: str, value: str) -> type[Operation]:
    """The operation of a route whose answer has in `value` what others take as `parameter`."""

    @dataclass
    class LeadingOperation(Operation):
        def __post_init__(self) -> None:
            answer = (self.responses or {})[str(HTTPStatus.OK.value)]
            assert isinstance(answer, OpenAPIResponse)  # noqa: S101 - Litestar makes no others
            answer.links = _links(routes, parameter, value)

    return LeadingOperation


@dataclass
class WavOperation(Operation):
    """A route that answers with a wav file."""

    def __post_init__(self) -> None:
        """Say so."""
        answer = OpenAPIResponse(description="a wav file", content={"audio/wav": _binary()})
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


@dataclass
class SpokenWavOperation(Operation):
    """A route that answers with a wav file that was spoken."""

    def __post_init__(self) -> None:
        """Say so."""
        answer = OpenAPIResponse(
            description="a wav file", content={"audio/wav": _binary()}, headers=_headers("X-Seed", "X-Model")
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


@dataclass
class WatchOperation(Operation):
    """A route that answers with events."""

    def __post_init__(self) -> None:
        """Say so."""
        answer = OpenAPIResponse(
            description="server-sent events",
            content={"text/event-stream": OpenAPIMediaType(schema=_event("event", "data"))},
        )
        self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}


TRANSCRIPT = OpenAPIResponse(
    description="the transcript, in the format that was asked for",
    content={
        "application/json": OpenAPIMediaType(
            schema=Schema(
                type=OpenAPIType.OBJECT, properties={"text": Schema(type=OpenAPIType.STRING)}, required=["text"]
            )
        ),
        "text/plain": OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING)),
        "text/event-stream": OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING)),
    },
    headers={"X-Model": OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description="what listened")},
)


def upload_of(
    file: str,
    *,
    required: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    answer: OpenAPIResponse | None = None,
) -> type[Operation]:
    """The operation of a route that takes a form with a file and texts, by the names of their fields.

    `answer` stands for one that the handler's type doesn't tell.
    """

    @dataclass
    class UploadOperation(Operation):
        def __post_init__(self) -> None:
            fields: dict[str, Reference | Schema] = {
                name: Schema(type=OpenAPIType.STRING) for name in (*required, *optional)
            }
            fields[file] = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
            form = Schema(type=OpenAPIType.OBJECT, properties=fields, required=[*required, file])
            self.request_body = RequestBody(
                required=True, content={"multipart/form-data": OpenAPIMediaType(schema=form)}
            )
            if answer is not None:
                self.responses = {**(self.responses or {}), str(HTTPStatus.OK.value): answer}

    return UploadOperation


@dataclass
class EventOperation(AudioOperation):
    """A route that answers with audio, or with events that carry it."""

    def __post_init__(self) -> None:
        """Say so."""
        super().__post_init__()
        self._add("text/event-stream", _event("data"))


def _headers(*names: str) -> dict[str, OpenAPIHeader | Reference]:
    text = Schema(type=OpenAPIType.STRING)
    return {name: OpenAPIHeader(schema=text, description=AUDIO_HEADERS[name]) for name in names}


def _links(routes: dict[str, str], parameter: str, value: str) -> dict[str, Link | Reference]:
    return {
        name: Link(operation_ref=f"#/paths/{route}", parameters={parameter: value}) for name, route in routes.items()
    }


def _event(*fields: str) -> Schema:
    """A server-sent event with these fields, which are text."""
    text = Schema(type=OpenAPIType.STRING)
    return Schema(type=OpenAPIType.OBJECT, properties=dict.fromkeys(fields, text))


def _binary() -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))
