"""How many of IndexTTS2's tasks are accepted and completed, and how long a claim takes with ten thousand waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.common import TEN_WORDS, Note, ms, table
from benchmarks.jobs import WAITING, home_with, postgresql, rates
from dia_server.bench import percentile
from dia_server.database.database import open_database
from dia_server.jobs.job import NewJob, Wanted
from dia_server.jobs.leases import Leases
from dia_server.jobs.store import JobStore
from dia_server.services.index_tts import KIND
from dia_server.settings import Settings

TITLE = "Tasks"
MEASURED = (
    "IndexTTS2's tasks as the jobs above, each with a recording that becomes a blob and is not listened to: sent by 16 "
    "clients, then run by 1, 2 and 4 `dia-server worker`s; some that hibari speaks in the recording's voice; and "
    "claims of one task with 10,000 waiting."
)
CALL = {"params": {"text": TEN_WORDS, "spk_audio_prompt": "examples/voice_01.wav", "seed": 7}}
NOISE = {"params": CALL["params"] | {"model": "noise"}}
SPOKEN = 200
CLAIMS = 200


def run(note: Note) -> str:
    """Measure."""
    rows, claims = [], []
    for database in ("SQLite", "PostgreSQL"):
        for workers in (1, 2, 4):
            note(f"{database}, {workers} workers")
            with fresh(database) as url:
                accepted, completed = rates(url, workers, "/tts", NOISE)
            rows.append([database, "noise", workers, f"{accepted:.0f}", f"{completed:.0f}"])
            if database == "SQLite":
                accepted, completed = rates("", workers, "/tts", CALL, SPOKEN)
                rows.append([database, "hibari", workers, f"{accepted:.0f}", f"{completed:.1f}"])
        note(f"{database}, {WAITING} waiting")
        with fresh(database) as url:
            seconds = asyncio.run(claim_times(url))
        claims.append([database, *(ms(percentile(seconds, share)) for share in (0.5, 0.99))])
    return "\n\n".join(
        [
            table(["database", "model", "workers", "accepted a second", "completed a second"], rows),
            f"A claim, commit included, with {WAITING:,} tasks waiting:",
            table(["database", "p50", "p99"], claims),
        ]
    )


@contextmanager
def fresh(database: str) -> Iterator[str]:
    """The setting for an empty database."""
    if database == "SQLite":
        yield ""
        return
    with postgresql() as address:
        yield address


async def claim_times(url: str) -> list[float]:
    """Seconds of claims, one after the other."""
    settings = Settings(database_url=url, max_pending_jobs=2 * WAITING)
    new = NewJob(kind=KIND, voice=None, request={}, payload=b"{}")
    seconds, anything = [], Wanted(kinds=(KIND,), models=frozenset(), others=True)
    with home_with({}) as home:
        async with open_database(settings, home) as database:
            store, leases = JobStore(database, settings), Leases(database, settings, "bench")
            for _ in range(WAITING // 100):
                await asyncio.gather(*(store.submit(new) for _ in range(100)))
            for _ in range(CLAIMS):
                started = time.perf_counter()
                await leases.claim(anything, 1)
                seconds.append(time.perf_counter() - started)
    return seconds
