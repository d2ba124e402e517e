"""The Dia contract's routes for jobs: speech that outlives its request."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import File
from litestar.types import ASGIApp

from dia_server.api.documents import JOB_LINKS, AudioOperation, WatchOperation, failures, leading_to
from dia_server.api.events import PING, with_pings
from dia_server.api.fields import Limit, Offset, moment, refuse_filters
from dia_server.api.http import StreamedAnswer
from dia_server.api.prompts import Message
from dia_server.audio.encode import FORMATS
from dia_server.errors import BadInput, GenerationFailed, JobNotCompleted
from dia_server.jobs.feed import Feed
from dia_server.jobs.job import Job, NewJob, Status
from dia_server.jobs.results import FOLDER, Results
from dia_server.jobs.store import JobStore
from dia_server.services import recipe
from dia_server.services.plan import Plan
from dia_server.services.speech_jobs import KIND

_SECONDS = re.compile(r"\d{1,12}(\.\d+)?")
_KEY = re.compile(r"[!-~]([ -~]{0,253}[!-~])?")

Moment = Annotated[
    str | None,
    Parameter(description="only jobs accepted since: ISO 8601, such as 2026-01-15T10:30:00Z, or Unix seconds"),
]


class JobAnswer(msgspec.Struct, kw_only=True):
    """A job in the Dia contract's words; times in UTC."""

    id: str
    status: Status
    created_at: str
    started_at: str | None
    completed_at: str | None
    text: str
    processed_text: str
    voice_id: str
    response_format: str
    speed: float
    role: str | None
    seed: int
    temperature: float | None
    cfg_scale: float | None
    top_p: float | None
    max_tokens: int | None
    use_torch_compile: bool | None
    audio_prompt_used: str | None
    generation_time: float | None
    worker_id: str | None
    file_path: str | None
    file_size: int | None
    error_message: str | None
    progress: float
    queue_position: int | None


class JobList(msgspec.Struct):
    """Some jobs, the newest first; how many there are in all, and how many of them are here."""

    jobs: list[JobAnswer]
    total: int
    filtered: int


class Accepted(msgspec.Struct):
    """The job that a request has become."""

    job_id: str
    status: Status
    message: str


class JobEvent(msgspec.Struct):
    """What a watched job has come to."""

    id: str
    status: Status
    progress: float
    queue_position: int | None
    error_message: str | None


def idempotency_key(request: Request[Any, Any, State]) -> str | None:
    """The request's key, which is its caller's own; None if it has none.

    Raises:
        BadInput: it can't be one.
    """
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise BadInput("'Idempotency-Key' has 1 to 255 printable ASCII characters, the first and last no blanks")
    return f"{request.scope['state'].get('caller', b'').hex()} {key}"


def new_job(plan: Plan, fields: dict[str, Any], key: str | None, request_hash: str) -> NewJob:
    """The job that speaks a plan; `fields` are those of the request that the plan doesn't have."""
    return NewJob(
        kind=KIND,
        model=plan.model,
        voice=plan.voice,
        request={
            "text": plan.text,
            "processed_text": plan.script,
            "voice_id": plan.voice,
            "response_format": plan.format,
            "seed": plan.seed,
            "audio_prompt_used": plan.audio_prompt,
            **fields,
        },
        payload=recipe.encode(plan),
        blobs=recipe.blobs_of(plan),
        idempotency_key=key,
        request_hash=request_hash,
    )


def accepted(job: Job) -> Accepted:
    """What the client is told at once."""
    message = "Job queued for processing" if job.status == "pending" else f"Job is {job.status}"
    return Accepted(job.id, job.status, message)


@get(
    ["/jobs", "/v1/jobs"],
    summary="List jobs",
    responses=failures(400, 401, 500, 503),
    operation_class=leading_to(JOB_LINKS, "job_id", "$response.body#/jobs/0/id"),
)
async def list_jobs(
    job_store: JobStore,
    status: Status | None = None,
    voice_id: str | None = None,
    since: Moment = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> JobList:
    """The newest jobs, those of a status or a voice, or of late."""
    found = await job_store.listed(
        KIND, status=status, voice=voice_id, since=_seconds(since), limit=limit, offset=offset
    )
    total = sum((await job_store.counts(KIND)).values())
    return JobList([_answer(job) for job in found], total, len(found))


@delete(
    ["/jobs", "/v1/jobs"], status_code=200, summary="Clear finished jobs", responses=failures(400, 401, 500, 503, 507)
)
async def clear_jobs(request: Request[Any, Any, State], results: Results) -> Message:
    """Forget completed, failed and cancelled jobs, with their files."""
    refuse_filters(request)
    return Message(f"Cleared {await results.clear(KIND)} completed jobs")


@get(["/jobs/{job_id:str}", "/v1/jobs/{job_id:str}"], summary="A job", responses=failures(400, 401, 404, 500, 503))
async def get_job(job_id: str, job_store: JobStore) -> JobAnswer:
    """How it stands."""
    return _answer(await job_store.get(KIND, job_id))


@delete(
    ["/jobs/{job_id:str}", "/v1/jobs/{job_id:str}"],
    status_code=200,
    summary="Cancel a job",
    responses=failures(400, 401, 404, 500, 503, 507),
)
async def cancel_job(job_id: str, job_store: JobStore) -> Message:
    """End a job that is not finished; whoever runs it stops within a second."""
    await job_store.cancel(KIND, job_id)
    return Message(f"Job '{job_id}' cancelled")


@get(
    ["/jobs/{job_id:str}/result", "/v1/jobs/{job_id:str}/result"],
    summary="A job's audio",
    responses=failures(400, 401, 404, 425, 500, 503),
    operation_class=AudioOperation,
)
async def get_result(job_id: str, job_store: JobStore, results: Results) -> File:
    """The file, as often as it is asked for, until its time is over."""
    job = await job_store.get(KIND, job_id)
    match job.status:
        case "failed":
            raise GenerationFailed(f"Job failed: {job.error}")
        case "cancelled":
            raise BadInput("Job was cancelled")
        case "pending" | "processing":
            raise JobNotCompleted(f"Job not completed (status: {job.status})")
    path = results.path_of(job)
    kind = FORMATS[job.request["response_format"]]
    return File(
        path,
        filename=f"speech_{job.id[:8]}.{kind.extension}",
        media_type=kind.content_type,
        headers={"X-Seed": str(job.request["seed"]), "X-Audio-Duration": f"{job.result['seconds']:.3f}"},
    )


@get(
    ["/jobs/{job_id:str}/events", "/v1/jobs/{job_id:str}/events"],
    summary="Watch a job",
    responses=failures(400, 401, 404, 500, 503),
    operation_class=WatchOperation,
)
async def watch_job(job_id: str, feed: Feed) -> ASGIApp:
    """Events named `progress`, and in the end one named as the job's status; their data is JSON."""

    async def told() -> AsyncGenerator[bytes, None]:
        async with aclosing(feed.follow(KIND, job_id)) as states:
            async for state in states:
                name = "progress" if state.status in ("pending", "processing") else state.status
                event = JobEvent(state.id, state.status, round(state.progress, 4), state.position, state.error)
                yield b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(event))

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(with_pings(told())) as states:
            async for state in states:
                yield PING if state is None else state

    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    return StreamedAnswer(events(), lambda: headers, whole=False, is_clip=False)


def _answer(job: Job) -> JobAnswer:
    asked = {name: job.request.get(name) for name in JobAnswer.__struct_fields__}
    return JobAnswer(
        **asked
        | {
            "id": job.id,
            "status": job.status,
            "created_at": moment(job.created_at),
            "started_at": job.started_at and moment(job.started_at),
            "completed_at": job.completed_at and moment(job.completed_at),
            "generation_time": job.result.get("generation_time"),
            "worker_id": job.runner,
            "file_path": None if job.file is None else str(Path(FOLDER, job.file)),
            "file_size": job.result.get("size"),
            "error_message": job.error,
            "progress": round(job.progress, 4),
            "queue_position": job.position,
        }
    )


def _seconds(since: str | None) -> float | None:
    if since is None:
        return None
    try:
        if _SECONDS.fullmatch(since):
            return float(since)
        found = datetime.fromisoformat(since)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadInput("'since' must be like 2026-01-15T10:30:00Z, or seconds since 1970", param="since") from None
