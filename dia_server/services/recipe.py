"""A plan as JSON, from which the same bytes can be made later or elsewhere."""

from __future__ import annotations

from pathlib import Path

import msgspec

from dia_server.blobs import Blobs
from dia_server.services.plan import Plan
from dia_server.tasks import Reference, Speak


def blobs_of(plan: Plan) -> tuple[str, ...]:
    """The names of the blobs that a plan refers to."""
    return tuple(sorted({Path(reference.path).name for reference in plan.references}))


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
    here = {speaker: _found(reference, blobs) for speaker, reference in task.references.items()}
    manner = task.delivery.emotion_reference
    delivery = msgspec.structs.replace(task.delivery, emotion_reference=manner and _found(manner, blobs))
    return msgspec.structs.replace(task, references=here, delivery=delivery)


def _found(reference: Reference, blobs: Blobs) -> Reference:
    path = blobs.path(reference.sha256, Path(reference.path).suffix)
    return msgspec.structs.replace(reference, path=str(path))
