"""The log of clips, as the Dia server's admin panel asks for it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, delete, get
from litestar.datastructures import State
from litestar.response import File
from sqlalchemy import Row

from dia_server.api.documents import LOG_LINKS, AudioOperation, failures, leading_to
from dia_server.api.fields import Limit, Offset, moment, refuse_filters
from dia_server.api.prompts import Message
from dia_server.audio.encode import FORMATS
from dia_server.services.history import History


class LogEntry(msgspec.Struct, kw_only=True):
    """A clip that was made whole; the texts are empty unless `show_prompts` was on."""

    id: str
    timestamp: str
    text: str
    processed_text: str
    voice: str
    audio_prompt_used: str | None
    generation_time: float
    file_path: str | None
    file_size: int | None


class LogList(msgspec.Struct):
    """Some entries, the newest first; how many there are in all, and how many of them are here."""

    logs: list[LogEntry]
    total: int
    filtered: int


@get(
    ["/logs", "/v1/logs"],
    summary="Log of clips",
    responses=failures(400, 401, 500, 503),
    operation_class=leading_to(LOG_LINKS, "log_id", "$response.body#/logs/0/id"),
)
async def list_logs(history: History, voice: str | None = None, limit: Limit = 50, offset: Offset = 0) -> LogList:
    """The newest clips, of all voices or of one."""
    rows, total = await history.listed(voice=voice, limit=limit, offset=offset)
    return LogList([_entry(row) for row in rows], total, len(rows))


@delete(["/logs", "/v1/logs"], status_code=200, summary="Clear the log", responses=failures(400, 401, 500, 503, 507))
async def clear_logs(request: Request[Any, Any, State], history: History) -> Message:
    """Forget all clips, with the files that were saved of them."""
    refuse_filters(request)
    return Message(f"Cleared {await history.clear()} log entries")


@get(["/logs/{log_id:str}", "/v1/logs/{log_id:str}"], summary="A clip", responses=failures(400, 401, 404, 500, 503))
async def get_log(log_id: str, history: History) -> LogEntry:
    """What is known of it; its id is what `X-Generation-ID` was."""
    return _entry(await history.get(log_id))


@delete(
    ["/logs/{log_id:str}", "/v1/logs/{log_id:str}"],
    status_code=200,
    summary="Forget a clip",
    responses=failures(400, 401, 404, 500, 503, 507),
)
async def delete_log(log_id: str, history: History) -> Message:
    """Remove it from the log, with the file that was saved of it."""
    await history.remove([await history.get(log_id)])
    return Message(f"Log entry '{log_id}' deleted")


@get(
    ["/logs/{log_id:str}/download", "/v1/logs/{log_id:str}/download"],
    summary="A clip's audio",
    responses=failures(400, 401, 404, 500, 503),
    operation_class=AudioOperation,
)
async def download_log(log_id: str, history: History) -> File:
    """The file, if `save_outputs` was on."""
    path = history.file_of(await history.get(log_id))
    kind = next(kind for kind in FORMATS.values() if path.suffix == f".{kind.extension}")
    return File(path, filename=path.name, media_type=kind.content_type)


def _entry(row: Row[Any]) -> LogEntry:
    return LogEntry(
        id=row.id,
        timestamp=moment(row.created_at),
        text=row.text,
        processed_text=row.processed_text,
        voice=row.voice,
        audio_prompt_used=row.audio_prompt,
        generation_time=round(row.seconds, 3),
        file_path=row.file,
        file_size=row.file_size,
    )
