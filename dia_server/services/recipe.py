"""A plan as JSON, from which the same bytes can be made later or elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
    return with_references(msgspec.json.decode(data, type=Plan), partial(_found, blobs=blobs))


def with_references(plan: Plan, changed: Callable[[Reference], Reference]) -> Plan:
    """The plan with other recordings instead of its own."""
    items = tuple(_with_references(item, changed) if isinstance(item, Speak) else item for item in plan.items)
    return msgspec.structs.replace(plan, items=items)


def _with_references(task: Speak, changed: Callable[[Reference], Reference]) -> Speak:
    references = {speaker: changed(reference) for speaker, reference in task.references.items()}
    manner = task.delivery.emotion_reference
    delivery = msgspec.structs.replace(task.delivery, emotion_reference=manner and changed(manner))
    return msgspec.structs.replace(task, references=references, delivery=delivery)


def _found(reference: Reference, blobs: Blobs) -> Reference:
    path = blobs.path(reference.sha256, Path(reference.path).suffix)
    return msgspec.structs.replace(reference, path=str(path))
