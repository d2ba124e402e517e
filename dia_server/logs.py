"""Logging: structlog for ours, and the standard library's records of others through the same formatter."""

from __future__ import annotations

import logging
import sys
from asyncio import CancelledError
from contextlib import suppress
from typing import TextIO, cast

import msgspec
import structlog

from dia_server.settings import Settings


class _Unbreakable:
    """A stream that loses what can't be written: a full disk or a closed terminal must not stop the server."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


class _KnownBreaks(logging.Filter):
    """Drops uvicorn's complaints about streams that we break on purpose and have logged with their reason.

    Requests that outlast the grace of a drain are cancelled.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        is_cancelled = record.exc_info is not None and record.exc_info[0] is CancelledError
        return not is_cancelled and "returned without completing response" not in record.getMessage()


def _to_json(event: object, **_: object) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def configure(settings: Settings, level: int = logging.INFO) -> None:
    """Log to stderr from `level` on, readable on a terminal and JSON elsewhere unless the settings say which."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(_to_json)
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Unbreakable(sys.stderr))),
        # They would keep the level that they began with.
        cache_logger_on_first_use=False,
    )
    set_level(settings, level)
    handler = logging.StreamHandler(cast(TextIO, _Unbreakable(sys.stderr)))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_KnownBreaks())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def set_level(settings: Settings, level: int = logging.INFO) -> None:
    """Log from `level` on, or from debug on if the settings say so; may be called at any time."""
    level = logging.DEBUG if settings.debug_mode else level
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
