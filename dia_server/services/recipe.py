"""A plan as JSON, from which the same bytes can be made later or elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dia_server.blobs import Blobs
from dia_server.services.plan import Plan
from dia_server.tasks import Speak


def blobs_of(plan: Plan) -> tuple[str, ...]:
    """The names of the blobs that a plan refers to."""
    return tuple(sorted({Path(task.reference.path).name for task in plan.tasks if task.reference is not None}))


def encode(plan: Plan) -> bytes:
    """The plan as JSON."""
    return msgspec.json.encode(plan)


def decode(data: bytes, blobs: Blobs) -> Plan:
    """The plan, its recordings looked for in these blobs, since it may come from elsewhere.

    Raises:
        msgspec.ValidationError, msgspec.DecodeError: it is no plan.
    """
    plan = msgspec.json.decode(data, type=Plan)
    items = tuple(_relocated(item, blobs) if isinstance(item, Speak) else item for item in plan.items)
    return msgspec.structs.replace(plan, items=items)


def _relocated(task: Speak, blobs: Blobs) -> Speak:
    if task.reference is None:
        return task
    here = blobs.path(task.reference.sha256, Path(task.reference.path).suffix)
    return msgspec.structs.replace(task, reference=msgspec.structs.replace(task.reference, path=str(here)))
