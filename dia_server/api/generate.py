"""The Dia server's own generation route."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, post
from litestar.datastructures import State
from litestar.response.base import ASGIResponse
from litestar.types import ASGIApp

from dia_server.api.access import RATED
from dia_server.api.documents import GenerateOperation, failures
from dia_server.api.fields import AudioFormat, Sampling, Speed
from dia_server.api.http import speak
from dia_server.api.jobs import accepted, idempotency_key, new_job
from dia_server.jobs.store import JobStore
from dia_server.services.plan import SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.speech import Speech
from dia_server.services.speech_jobs import KIND
from dia_server.settings import Settings


class GenerateBody(Sampling, kw_only=True):
    """The Dia contract's fields; unknown ones are ignored."""

    text: Annotated[
        str, msgspec.Meta(description="the text; `[S1]` and `[S2]` mark turns", examples=["[S1] Is it ready?"])
    ]
    voice_id: Annotated[str, msgspec.Meta(description="id or alias of a voice", examples=["alloy"])]
    response_format: AudioFormat | None = None
    speed: Speed | None = None
    role: Annotated[
        Literal["user", "assistant", "system"] | None,
        msgspec.Meta(description="recorded; the voice decides who speaks"),
    ] = None


@post(
    ["/generate", "/v1/generate"],
    status_code=200,
    summary="Speak a text (Dia)",
    responses=failures(400, 401, 404, 409, 413, 415, 429, 500, 503, 507),
    operation_class=GenerateOperation,
    opt={RATED: True},
)
async def generate(
    request: Request[Any, Any, State],
    data: GenerateBody,
    planner: Planner,
    speech: Speech,
    settings: Settings,
    job_store: JobStore,
    async_mode: bool = False,
) -> ASGIApp:
    """Speak `text` in the voice `voice_id`; with `async_mode`, as a job, whose id is the answer.

    A job that is submitted again with the same `Idempotency-Key` is the same job.
    """
    audio_format = data.response_format or "wav"
    wanted = SpeechRequest(
        text=data.text,
        voice=data.voice_id,
        format=audio_format,
        speed=data.speed or 1.0,
        seed=data.chosen_seed(),
        parameters=data.parameters(),
        text_field="text",
        voice_field="voice_id",
    )
    if not async_mode:
        whole = audio_format == "wav"
        return await speak(request, wanted, planner=planner, speech=speech, settings=settings, whole=whole)
    speech.check_room(background=True)
    key, request_hash = idempotency_key(request), hashlib.sha256(msgspec.json.encode(data)).hexdigest()
    job = None if key is None else await job_store.known(KIND, key, request_hash)
    if job is None:
        plan = await planner.plan(wanted)
        fields = {"speed": wanted.speed, "role": data.role, **data.parameters()}
        job = await job_store.submit(new_job(plan, fields, key, request_hash))
    request.scope["state"]["log"] |= {"job": job.id, "voice": job.voice, "seed": job.request["seed"]}
    return ASGIResponse(body=msgspec.json.encode(accepted(job)), media_type="application/json")
