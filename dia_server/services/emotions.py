"""Which emotions a text has."""

from __future__ import annotations

import asyncio

from dia_server.pool.pool import Pool
from dia_server.script.emotions import classify
from dia_server.settings import Settings


class Emotions:
    """The service that tells them."""

    def __init__(self, settings: Settings, pool: Pool) -> None:
        self._settings = settings
        self._pool = pool

    async def of_text(self, text: str) -> tuple[float, ...]:
        """Weights from 0 to 1 in the order of `EMOTIONS`, 1 at most together."""
        return await asyncio.to_thread(classify, text)
