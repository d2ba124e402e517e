"""Speech as jobs: planned when they are accepted, spoken behind all listeners, kept as files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

from dia_server.audio.encode import FORMATS
from dia_server.background import uninterrupted
from dia_server.blobs import Blobs
from dia_server.files import replacing
from dia_server.services import recipe
from dia_server.services.account import Account
from dia_server.services.history import History
from dia_server.services.plan import Plan
from dia_server.services.speech import Speech

KIND = "speech"


class SpeechJobs:
    """The handler of speech jobs."""

    def __init__(self, speech: Speech, history: History, blobs: Blobs) -> None:
        self._speech = speech
        self._history = history
        self._blobs = blobs

    async def run(
        self, job_id: str, payload: bytes, stem: Path, report: Callable[[float], None]
    ) -> tuple[str | None, dict[str, Any]]:
        """Speak the plan in `payload` into a file; see `jobs.runner.Handler`.

        Raises:
            DiaServerError: the clip can't be made, now or at all.
            OSError: the file can't be written.
        """
        return await self.speak(job_id, recipe.decode(payload, self._blobs), stem, report)

    async def speak(
        self, job_id: str, plan: Plan, stem: Path, report: Callable[[float], None]
    ) -> tuple[str, dict[str, Any]]:
        """Speak a plan into a file, as `run` does.

        Raises:
            DiaServerError, OSError: likewise.
        """
        kind = FORMATS[plan.format]
        account = Account(id=job_id)
        started, spoken, pieces = monotonic(), 0, []
        recordings = {Path(reference.path) for reference in plan.references}
        async with aclosing(self._speech.behind(plan, account)) as stream:
            async for piece in stream:
                pieces.append(piece)
                if account.segments > spoken:
                    spoken = account.segments
                    # The row names them as they were sent, not as they were decoded.
                    for path in recordings:
                        self._blobs.renew(path)
                report(spoken / len(plan.tasks))
        data = kind.whole(b"".join(pieces))
        path = stem.with_name(f"{stem.name}.{kind.extension}")
        await uninterrupted(asyncio.to_thread(_write, path, data))
        await self._history.add(plan, account, monotonic() - started, data if self._history.saves else None)
        return path.name, {
            "size": len(data),
            "seconds": account.seconds,
            "generation_time": round(monotonic() - started, 3),
            "fingerprint": account.fingerprint,
        }


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(data)
