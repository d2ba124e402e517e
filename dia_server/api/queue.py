"""How much work there is, and who does it."""

from __future__ import annotations

import msgspec
from litestar import get

from dia_server.api.documents import failures
from dia_server.jobs.presence import Presence
from dia_server.jobs.store import JobStore
from dia_server.pool.pool import Pool
from dia_server.services.gpus import Gpus, Pressure


class QueueStats(msgspec.Struct):
    """The Dia contract's figures; the workers are those of this server and of all that run jobs."""

    pending_jobs: int
    processing_jobs: int
    completed_jobs: int
    failed_jobs: int
    total_workers: int
    active_workers: int
    memory_pressure: dict[str, Pressure]


@get(["/queue/stats", "/v1/queue/stats"], summary="Jobs and workers", responses=failures(401, 500, 503))
async def queue_stats(pool: Pool, job_store: JobStore, presence: Presence, gpus: Gpus) -> QueueStats:
    """Jobs by status, workers in all and at work, and how full the GPUs are."""
    counts = await job_store.counts()
    crews = [pool.crew(), *(await presence.others()).values()]
    return QueueStats(
        pending_jobs=counts.get("pending", 0),
        processing_jobs=counts.get("processing", 0),
        completed_jobs=counts.get("completed", 0),
        failed_jobs=counts.get("failed", 0),
        total_workers=sum(workers for workers, _ in crews),
        active_workers=sum(busy for _, busy in crews),
        memory_pressure=gpus.pressure(),
    )
