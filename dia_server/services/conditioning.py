"""Recordings as clients gave them, made into such as models take: once for each content, when a job begins."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from dia_server.audio.wav import write_wav
from dia_server.blobs import Blobs
from dia_server.pool.pool import Pool
from dia_server.services import recipe
from dia_server.services.decoding import DECODED_RATE, decode_recording
from dia_server.services.plan import Plan
from dia_server.settings import Settings
from dia_server.tasks import Reference

# Of blobs that nobody has looked into yet.
RAW = ".raw"
# What came of the last ones is remembered; others are decoded again, to the same samples.
MOST_REMEMBERED = 1_000


class Conditioning:
    """Decodes and cleans recordings, each once at a time."""

    def __init__(self, settings: Settings, pool: Pool, blobs: Blobs) -> None:
        self._settings = settings
        self._pool = pool
        self._blobs = blobs
        self._wavs: dict[str, str] = {}
        # By the raw recording's hash; those that nobody holds or waits for are gone.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def applied(self, plan: Plan) -> Plan:
        """The plan with wav blobs instead of raw ones.

        Raises:
            BadInput: a recording can't be used.
            Unavailable, OSError: it can't be decoded now.
        """
        raw = {reference.path: reference for reference in plan.references if reference.path.endswith(RAW)}
        clean = {path: await self._clean(reference) for path, reference in raw.items()}
        return recipe.with_references(plan, lambda reference: clean.get(reference.path, reference)) if raw else plan

    async def _clean(self, reference: Reference) -> Reference:
        async with self._locks.setdefault(reference.sha256, asyncio.Lock()):
            sha256 = self._wavs.pop(reference.sha256, "")
            if not self._blobs.renew(self._blobs.path(sha256, ".wav")):
                sha256 = await self._decode(Path(reference.path))
            self._wavs[reference.sha256] = sha256
            if len(self._wavs) > MOST_REMEMBERED:
                del self._wavs[next(iter(self._wavs))]
        path = self._blobs.path(sha256, ".wav")
        return msgspec.structs.replace(reference, path=str(path), sha256=sha256)

    async def _decode(self, raw: Path) -> str:
        samples, _ = await decode_recording(self._pool, raw, self._settings)
        wav = io.BytesIO()
        await asyncio.to_thread(write_wav, wav, samples, DECODED_RATE)
        return await asyncio.to_thread(self._blobs.put, wav.getvalue(), ".wav")
