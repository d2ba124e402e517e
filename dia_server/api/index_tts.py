"""IndexTTS2's task API: speech as tasks, whose sound comes as a data URI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import ResponseHeader, State
from litestar.params import Parameter
from litestar.response import File

from dia_server.api.access import RATED
from dia_server.api.bodies import decode_json
from dia_server.api.documents import AUDIO_HEADERS, TASK_LINKS, SpokenWavOperation, failures, leading_to
from dia_server.api.fields import Offset
from dia_server.api.index_tts_bodies import TaskBody, TaskParams
from dia_server.api.jobs import idempotency_key
from dia_server.errors import GenerationFailed, JobNotCompleted, JobNotFound, TooLarge
from dia_server.jobs.job import Job, NewJob
from dia_server.jobs.job import Status as JobStatus
from dia_server.jobs.results import FOLDER, Results
from dia_server.jobs.store import JobStore
from dia_server.services import recipe
from dia_server.services.home_files import check_output
from dia_server.services.index_tts import KIND, IndexTts
from dia_server.services.index_tts_jobs import payload_of
from dia_server.services.recordings import is_data_uri
from dia_server.services.speech import Speech
from dia_server.settings import Settings

Status = Literal["pending", "running", "done", "error"]
# A cancelled job is one that is being deleted, and no task any more.
_STATUSES: dict[JobStatus, Status] = {
    "pending": "pending", "processing": "running", "completed": "done", "failed": "error",
}  # fmt: skip
_JOB_STATUSES = {shown: status for status, shown in _STATUSES.items()}
_KNOWN = frozenset(TaskParams.__struct_fields__)
MOST_NAME = 100
# Three bytes become four characters; in parts, so that other threads get their turns.
_BLOCK_BYTES = 3 * 262_144


class TaskAccepted(msgspec.Struct, omit_defaults=True):
    """The task's id, and if there are any, the names of parameters that will have no effect."""

    task_id: str
    unused_params: list[str] = []


class Task(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A task as it stands; times in seconds since 1970. What is not known, or not so, is left out.

    `emotion` has the weights that count, those read from a text too.
    """

    id: str
    status: Status
    result: str | None
    audio_data: str | None = None
    error: str | None = None
    worker_id: str | None
    submit_time: float
    start_time: float | None = None
    end_time: float | None = None
    duration: float | None = None
    model: str
    seed: int
    emotion: dict[str, float] = {}
    params: dict[str, Any]
    unused_params: list[str] = []


class TaskList(msgspec.Struct):
    """The tasks that match, the newest first; how many there are in all."""

    total: int
    tasks: list[Task]


class TaskDeleted(msgspec.Struct):
    """What was deleted."""

    task_id: str
    message: str


@post(
    "/tts",
    status_code=200,
    summary="Submit a task (IndexTTS2)",
    responses=failures(400, 401, 409, 413, 415, 429, 500, 503, 507),
    response_headers=[
        # The document takes the header's type from the value.
        ResponseHeader(name="X-Seed", value="7", documentation_only=True, description=AUDIO_HEADERS["X-Seed"]),
        ResponseHeader(name="X-Model", value="hibari", documentation_only=True, description=AUDIO_HEADERS["X-Model"]),
    ],
    operation_class=leading_to(TASK_LINKS, "task_id", "$response.body#/task_id"),
    opt={RATED: True},
)
async def create_task(
    request: Request[Any, Any, State],
    data: TaskBody,
    index_tts: IndexTts,
    speech: Speech,
    settings: Settings,
    results: Results,
    job_store: JobStore,
) -> Response[TaskAccepted]:
    """Accept a task. One that is submitted again with the same `Idempotency-Key` is the same task."""
    speech.check_room(background=True)
    body = await request.body()
    key, request_hash, job = idempotency_key(request), "", None
    if key is not None:
        request_hash = await asyncio.to_thread(_hash, body)
        job = await job_store.known(KIND, key, request_hash)
    if job is None:
        shown = await asyncio.to_thread(_shown, body, data.params, settings)
        if data.params.output_path is not None:
            await asyncio.to_thread(check_output, results.home, data.params.output_path, "output_path")
        planned = await index_tts.plan(data.params.request())
        unused = sorted({*planned.unused, *(name[:MOST_NAME] for name in shown.keys() - _KNOWN)})
        job = await job_store.submit(
            NewJob(
                kind=KIND,
                model=planned.plan.model,
                voice=planned.plan.voice,
                request={
                    "params": shown,
                    "unused_params": unused,
                    "seed": planned.plan.seed,
                    "emotion": planned.emotion,
                },
                payload=payload_of(planned, data.params.output_path),
                blobs=() if planned.problem else recipe.blobs_of(planned.plan),
                idempotency_key=key,
                request_hash=request_hash,
            )
        )
    request.scope["state"]["log"] |= {"job": job.id, "voice": job.voice, "seed": job.request["seed"]}
    return Response(TaskAccepted(job.id, job.request["unused_params"]), headers=_headers(job))


@get("/tts/{task_id:str}", summary="A task (IndexTTS2)", responses=failures(400, 401, 404, 500, 503))
async def get_task(task_id: str, job_store: JobStore, results: Results) -> Task:
    """How it stands; its sound is there as a data URI once it is done."""
    job = await _found(job_store, task_id)
    task = _answer(job)
    if task.result is not None:
        data = await asyncio.to_thread(_base64, results.path_of(job))
        task.audio_data = f"data:audio/wav;base64,{data}"
    return task


@get(
    "/tts/{task_id:str}/audio",
    summary="A task's audio (IndexTTS2)",
    responses=failures(400, 401, 404, 425, 500, 503),
    operation_class=SpokenWavOperation,
)
async def get_task_audio(task_id: str, job_store: JobStore, results: Results) -> File:
    """The file, as often as it is asked for, until its time is over."""
    job = await _found(job_store, task_id)
    if job.status == "failed":
        raise GenerationFailed(f"Task failed: {job.error}")
    if job.status != "completed":
        raise JobNotCompleted(f"Task not completed (status: {_STATUSES[job.status]})")
    if job.file is None:
        raise JobNotFound(f"Task '{job.id}' not found (result expired)")
    return File(results.path_of(job), filename=f"{job.id}.wav", media_type="audio/wav", headers=_headers(job))


@get("/tasks", summary="List tasks (IndexTTS2)", responses=failures(400, 401, 500, 503))
async def list_tasks(
    job_store: JobStore,
    status: Annotated[Status, Parameter(description="how they stand")] = "done",
    limit: Annotated[int | None, Parameter(ge=1, le=2**31, description="how many of the newest ones")] = None,
    offset: Offset = 0,
) -> TaskList:
    """The tasks of a status: all of them, or the newest ones."""
    found = await job_store.listed(KIND, status=_JOB_STATUSES[status], limit=limit, offset=offset, places=False)
    total = (await job_store.counts(KIND)).get(_JOB_STATUSES[status], 0)
    return TaskList(total, [_answer(job) for job in found])


@delete(
    "/tts/{task_id:str}",
    status_code=200,
    summary="Delete a task (IndexTTS2)",
    responses=failures(400, 401, 404, 500, 503, 507),
)
async def delete_task(task_id: str, results: Results) -> TaskDeleted:
    """Forget a task with its file, whatever has become of it; whoever runs it stops within a second."""
    try:
        await results.delete(KIND, task_id)
    except JobNotFound:
        raise _not_found(task_id) from None
    return TaskDeleted(task_id, f"Task '{task_id}' deleted")


async def _found(job_store: JobStore, task_id: str) -> Job:
    try:
        job = await job_store.get(KIND, task_id)
    except JobNotFound:
        raise _not_found(task_id) from None
    if job.status not in _STATUSES:
        raise _not_found(task_id)
    return job


def _not_found(task_id: str) -> JobNotFound:
    return JobNotFound(f"Task '{task_id[:100]}' not found")


def _headers(job: Job) -> dict[str, str]:
    return {"X-Seed": str(job.request["seed"]), "X-Model": job.model}


def _answer(job: Job) -> Task:
    status = _STATUSES[job.status]
    # One that waits again, since its runner was lost, is nobody's.
    runner, start = (None, None) if status == "pending" else (job.runner, job.started_at)
    end = job.completed_at
    return Task(
        id=job.id,
        status=status,
        result=f"{FOLDER}/{job.file}" if job.file is not None else None,
        error=job.error if status == "error" else None,
        worker_id=runner,
        submit_time=job.created_at,
        start_time=start,
        end_time=end,
        duration=None if start is None or end is None else round(end - start, 3),
        model=job.model,
        seed=job.request["seed"],
        emotion=job.request.get("emotion", {}),
        params=job.request["params"],
        unused_params=job.request["unused_params"],
    )


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class _Sent(msgspec.Struct):
    """A body whose recordings need not be decoded again."""

    params: dict[str, msgspec.Raw]


_SENT = msgspec.json.Decoder(_Sent)
_ANYTHING = msgspec.json.Decoder(Any)
_RECORDINGS = ("spk_audio_prompt", "emo_audio_prompt")


def _shown(body: bytes, params: TaskParams, settings: Settings) -> dict[str, Any]:
    """The parameters as they were sent, without the recordings themselves, which nobody wants to see in lists.

    Raises:
        TooLarge: something else takes as much room.
    """
    shown = {
        name: _shortened(getattr(params, name)) if name in _RECORDINGS else decode_json(value, _ANYTHING)
        for name, value in decode_json(body, _SENT).params.items()
    }
    size = len(msgspec.json.encode(shown))
    if size > settings.max_body_bytes:
        raise TooLarge(
            f"Besides recordings as data URIs, the parameters have {size} bytes; allowed are {settings.max_body_bytes}"
        )
    return shown


def _shortened(recording: str | None) -> str | None:
    if recording is None or not is_data_uri(recording):
        return recording
    head = recording[:100].partition(",")[0]
    return f"{head},… ({len(recording) - recording.find(',') - 1} characters)"


def _base64(path: Path) -> str:
    with path.open("rb") as file:
        return "".join(base64.b64encode(block).decode() for block in iter(lambda: file.read(_BLOCK_BYTES), b""))
