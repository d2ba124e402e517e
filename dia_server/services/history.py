"""The log of clips: a row for each that was made whole, and the clip itself in `outputs/` if it is to be kept."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from dia_server.background import in_background
from dia_server.database.database import Database
from dia_server.database.tables import generations
from dia_server.errors import DiaServerError, NotFound
from dia_server.services import outputs, recipe
from dia_server.services.account import Account
from dia_server.services.plan import Plan
from dia_server.settings import Settings

# Rows wait so long for others, since each write waits for the disk.
FLUSH_SECONDS = 1.0
SWEEP_SECONDS = 60.0
# While the database is away; later ones push the first ones out.
MOST_WAITING = 10_000
MOST_AT_ONCE = 500

# The time of a clip that is being forgotten.
DOOMED = 0.0

log = structlog.get_logger(__name__)


class History:
    """The log of clips."""

    def __init__(self, settings: Settings, database: Database, home: Path) -> None:
        self._settings = settings
        self._database = database
        self._home = home
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MOST_WAITING)
        self._writing = asyncio.Lock()
        self._trouble = ""

    @property
    def saves(self) -> bool:
        """Whether clips are to be kept as files."""
        return self._settings.save_outputs

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write rows, and sweep what is too old, until the block ends."""
        try:
            async with in_background(self._keep_for_ever(), "history"):
                yield
        finally:
            await self._try(self.flush())

    async def add(self, plan: Plan, account: Account, seconds: float, audio: bytes | None) -> None:
        """Note a clip that took so many seconds, and save it if its bytes are given; never fails."""
        row = {
            "id": account.id,
            "created_at": time.time(),
            "text": plan.text if self._settings.show_prompts else "",
            "processed_text": plan.script if self._settings.show_prompts else "",
            "voice": plan.voice,
            "audio_prompt": plan.audio_prompt,
            "seconds": seconds,
            "file": None,
            "file_size": None,
            "blobs": "",
        }
        if audio is not None:
            try:
                file = await asyncio.to_thread(outputs.save, self._home, plan, account, audio)
            except OSError as error:
                log.warning("output can't be saved", reason=error.strerror, file=error.filename)
            else:
                row |= {"file": file, "file_size": len(audio), "blobs": " ".join(recipe.blobs_of(plan))}
        self._waiting.append(row)
        log.debug("clip", **row)

    async def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            DatabaseUnavailable, StorageFull: they go on waiting.
        """
        async with self._writing:
            while self._waiting:
                rows = [self._waiting[number] for number in range(min(len(self._waiting), MOST_AT_ONCE))]
                await self._database.write(partial(_insert, rows=rows))
                for row in rows:
                    if self._waiting and self._waiting[0] is row:
                        self._waiting.popleft()

    async def listed(self, *, voice: str | None, limit: int, offset: int) -> tuple[Sequence[Row[Any]], int]:
        """The rows that match, the newest first, and the number of all rows."""
        await self._try(self.flush())
        there = generations.c.created_at > DOOMED
        wanted = select(generations).where(there).order_by(generations.c.number.desc()).limit(limit).offset(offset)
        if voice is not None:
            wanted = wanted.where(generations.c.voice == voice)
        total = await self._database.read(select(func.count()).select_from(generations).where(there))
        return await self._database.read(wanted), total[0][0]

    async def get(self, generation_id: str) -> Row[Any]:
        """The row of a clip; the newest one of those that share an id, which clients may choose.

        Raises:
            NotFound: there is none.
        """
        await self._try(self.flush())
        is_meant = (generations.c.id == generation_id) & (generations.c.created_at > DOOMED)
        wanted = select(generations).where(is_meant).order_by(generations.c.number.desc()).limit(1)
        rows = await self._database.read(wanted)
        if not rows:
            raise NotFound(f"Log entry '{generation_id[:100]}' not found")
        return rows[0]

    async def blobs(self) -> set[str]:
        """The names of the blobs that saved clips refer to."""
        wanted = select(generations.c.blobs).where(generations.c.blobs != "").distinct()
        return {name for row in await self._database.read(wanted) for name in row.blobs.split()}

    def file_of(self, row: Row[Any]) -> Path:
        """The saved clip.

        Raises:
            NotFound: it wasn't saved, or is gone.
        """
        path = None if row.file is None else self._home / str(row.file)
        if path is None or not path.is_file():
            raise NotFound(f"Log entry '{row.id}' has no file; clips are kept while save_outputs is on")
        return path

    async def remove(self, rows: Sequence[Row[Any]]) -> None:
        """Forget clips, with the files that were written for them."""
        meant = generations.c.number.in_([row.number for row in rows])
        # Where the database refuses that, no file is gone; where it is done, a sweep takes up what is not finished.
        doomed = update(generations).where(meant).values(created_at=DOOMED)
        await self._database.write(lambda connection: connection.execute(doomed))
        await asyncio.to_thread(self._unlink, rows)
        gone = delete(generations).where(meant)
        await self._database.write(lambda connection: connection.execute(gone))

    async def clear(self) -> int:
        """Forget all; returns how many there were."""
        await self._try(self.flush())
        return await self._remove_all(select(generations))

    async def sweep(self) -> None:
        """Forget what is older than `output_retention_hours`."""
        hours = self._settings.output_retention_hours
        oldest = DOOMED if hours is None else time.time() - hours * 3_600
        await self._remove_all(select(generations).where(generations.c.created_at <= oldest))

    async def _remove_all(self, wanted: Any) -> int:
        count = 0
        while rows := await self._database.read(wanted.limit(MOST_AT_ONCE)):
            await self.remove(rows)
            count += len(rows)
        return count

    def _unlink(self, rows: Sequence[Row[Any]]) -> None:
        """Only files that are as they were written: an admin may have put others in their place."""
        for row in rows:
            path = None if row.file is None else self._home / row.file
            if path is not None and path.is_file() and path.stat().st_size == row.file_size:
                path.unlink(missing_ok=True)
                path.with_suffix(outputs.SIDECAR).unlink(missing_ok=True)

    async def _keep_for_ever(self) -> None:
        swept = float("-inf")
        while True:
            await self._try(self.flush())
            if time.monotonic() - swept > SWEEP_SECONDS:
                swept = time.monotonic()
                await self._try(self.sweep())
            await asyncio.sleep(FLUSH_SECONDS)

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
            self._trouble = ""
        except (DiaServerError, OSError) as error:
            # Once for each reason: it is tried again every second.
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("log of clips can't be kept", reason=self._trouble)
        except Exception:
            log.exception("log of clips can't be kept")


def _insert(connection: Connection, rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(generations), rows)
