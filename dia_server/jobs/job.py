"""What a job is."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
FINISHED: tuple[Status, ...] = ("completed", "failed", "cancelled")


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """Something to be done.

    Attributes:
        kind: names the handler.
        model: the one that speaks, whose workers the job waits for.
        voice: to filter lists by.
        request: what was asked for, to show.
        payload: what the handler gets; nothing in it has to be looked up again.
        blobs: names of the blobs that the payload refers to, which are kept until it is done.
        idempotency_key: the same key is the same job.
        request_hash: tells one request from another as the client sent them.
    """

    kind: str
    model: str = ""
    voice: str | None
    request: dict[str, Any]
    payload: bytes
    blobs: tuple[str, ...] = ()
    idempotency_key: str | None = None
    request_hash: str = ""


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """What changes while somebody watches; `position` as for `Job`."""

    id: str
    status: Status
    progress: float
    position: int | None
    error: str | None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands; times in seconds since 1970.

    Attributes:
        model: the one that speaks.
        progress: from 0 to 1.
        runner: who runs it, or did last.
        file: name of the file that came of it; None before that, and once its time is over.
        result: what is known of it.
        position: in the queue, from 1 on; None for one that doesn't wait.
    """

    id: str
    status: Status
    model: str
    voice: str | None
    request: dict[str, Any]
    created_at: float
    started_at: float | None
    completed_at: float | None
    progress: float
    runner: str | None
    file: str | None
    result: dict[str, Any]
    error: str | None
    position: int | None = None

    @property
    def state(self) -> JobState:
        """What changes of it."""
        return JobState(
            id=self.id, status=self.status, progress=self.progress, position=self.position, error=self.error
        )


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to claim: those of some kinds, and of these models, or of all others."""

    kinds: tuple[str, ...]
    models: frozenset[str] = frozenset()
    others: bool = False

    def has(self, lease: Lease) -> bool:
        """Whether a job is of those models."""
        return (lease.model in self.models) != self.others


class Lease(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A runner's right to a job; it writes only while the job's token is still this one."""

    number: int
    id: str
    kind: str
    model: str
    token: int
    attempts: int
    payload: bytes
