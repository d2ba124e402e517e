"""The models that a worker is loading: each is told of in the log, and given its share of the memory that is free."""

from __future__ import annotations

import time

import structlog

from dia_server.models import memory

log = structlog.get_logger(__name__)


class Loads:
    """Those of one place."""

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._since: dict[str, float] = {}

    def begin(self, model: str, device: str, sharing: int) -> int:
        """Take note of a load; the bytes that are there for each of so many workers, 0 if nobody knows."""
        self._since[model] = time.monotonic()
        log.info("loading model", model=model, worker=self._worker, device=device)
        return memory.measure() // sharing

    def end(self, model: str) -> None:
        """It is loaded."""
        seconds = time.monotonic() - self._since.pop(model)
        log.info("model loaded", model=model, worker=self._worker, seconds=round(seconds, 3))
