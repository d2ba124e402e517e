"""How the server is doing."""

from __future__ import annotations

import time

import msgspec
from litestar import Response, get
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dia_server import __version__
from dia_server.api.documents import OPEN, failures
from dia_server.pool.pool import Pool
from dia_server.pool.supervisor import WorkerInfo


class Health(msgspec.Struct, kw_only=True):
    """The Dia contract's three fields, and what this server adds."""

    status: str
    model_loaded: bool
    timestamp: float
    version: str
    draining: bool
    fingerprints: dict[str, str]


class WorkerList(msgspec.Struct):
    """All workers."""

    workers: list[WorkerInfo]


@get("/", summary="What this is", security=OPEN, sync_to_thread=False)
def root() -> dict[str, str]:
    """A word of welcome."""
    return {"message": f"dia-server {__version__}: see /schema for the routes", "status": "running"}


@get(
    ["/health", "/v1/health"],
    summary="Health",
    security=OPEN,
    responses=failures(400) | {503: ResponseSpec(Health, description="not ready", generate_examples=False)},
    sync_to_thread=False,
)
def health(pool: Pool, ready: str | None = None) -> Response[Health]:
    """200 while the process answers; with `?ready`, 503 until a worker is up and while draining."""
    body = Health(
        status=pool.health(),
        model_loaded=pool.up,
        timestamp=time.time(),
        version=__version__,
        draining=pool.draining,
        fingerprints={model: name for worker in pool.workers() for model, name in worker.fingerprints.items()},
    )
    is_ready = pool.up and not pool.draining
    return Response(body, status_code=200 if ready is None or is_ready else 503)


@get(["/workers", "/v1/workers"], summary="Workers", responses=failures(401), sync_to_thread=False)
def workers(pool: Pool) -> WorkerList:
    """Every worker, its process, what it has loaded and how often it died."""
    return WorkerList(pool.workers())


@get("/metrics", summary="Metrics", media_type=CONTENT_TYPE_LATEST, responses=failures(401), sync_to_thread=False)
def metrics() -> Response[bytes]:
    """Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
