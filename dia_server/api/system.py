"""How the server is doing."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dia_server import __version__
from dia_server.api.documents import OPEN, WelcomeOperation, failures
from dia_server.api.prompts import Message
from dia_server.errors import DiaServerError
from dia_server.jobs.results import Results
from dia_server.jobs.store import JobStore
from dia_server.pool.pool import Pool
from dia_server.pool.supervisor import WorkerInfo
from dia_server.services import index_tts, speech_jobs
from dia_server.services.history import History
from dia_server.settings import Settings

PAGES = Path(__file__).parent.parent / "pages"
# The page has its own scripts and styles only, and plays what its script has fetched.
POLICY = "default-src 'self'; media-src 'self' blob:; img-src data:; frame-ancestors 'none'; form-action 'self'"


class Welcome(msgspec.Struct):
    """What programs are told."""

    message: str
    status: str


class Health(msgspec.Struct, kw_only=True):
    """The Dia contract's three fields, and what this server adds."""

    status: str
    model_loaded: bool
    timestamp: float
    version: str
    draining: bool
    fingerprints: dict[str, str]
    default_model: str
    default_reason: str


class WorkerList(msgspec.Struct):
    """All workers."""

    workers: list[WorkerInfo]


@get("/", summary="What this is", security=OPEN, operation_class=WelcomeOperation, sync_to_thread=False)
def root(request: Request[Any, Any, State]) -> Response[bytes]:
    """A word of welcome; for browsers, a page to speak from."""
    if "text/html" in request.headers.get("accept", ""):
        return Response(_page(), media_type="text/html", headers={"Content-Security-Policy": POLICY})
    welcome = Welcome(message=f"dia-server {__version__}: see /schema for the routes", status="running")
    return Response(msgspec.json.encode(welcome), media_type="application/json")


@cache
def _page() -> bytes:
    return (PAGES / "index.html").read_bytes()


@get(
    ["/health", "/v1/health"],
    summary="Health",
    security=OPEN,
    responses=failures(400) | {503: ResponseSpec(Health, description="not ready", generate_examples=False)},
    sync_to_thread=False,
)
def health(pool: Pool, settings: Settings, ready: str | None = None) -> Response[Health]:
    """200 while the process answers; with `?ready`, 503 until a worker is up and while draining."""
    model, reason = pool.choice.default(settings)
    body = Health(
        status=pool.health(),
        model_loaded=pool.up,
        timestamp=time.time(),
        version=__version__,
        draining=pool.draining,
        fingerprints={key: name for worker in pool.workers() for key, name in worker.fingerprints.items()},
        default_model=model,
        default_reason=reason,
    )
    is_ready = pool.up and not pool.draining
    return Response(body, status_code=200 if ready is None or is_ready else 503)


@get(["/workers", "/v1/workers"], summary="Workers", responses=failures(401), sync_to_thread=False)
def workers(pool: Pool) -> WorkerList:
    """Every worker, its process, what it has loaded and how often it died."""
    return WorkerList(pool.workers())


@get("/metrics", summary="Metrics", media_type=CONTENT_TYPE_LATEST, responses=failures(401))
async def metrics(job_store: JobStore) -> Response[bytes]:
    """Prometheus' text format."""
    with suppress(DiaServerError):  # without its database, the server has all the more to tell
        for kind in (speech_jobs.KIND, index_tts.KIND):
            await job_store.measure(kind)
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@post(
    ["/cleanup", "/v1/cleanup"],
    status_code=200,
    summary="Remove what is too old",
    responses=failures(401, 413, 500, 503, 507),
)
async def cleanup(results: Results, history: History) -> Message:
    """Do at once what is done every minute: outputs and results whose time is over go."""
    await results.sweep()
    await history.sweep()
    return Message("Cleanup completed")
