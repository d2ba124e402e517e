"""A short sentence in each voice, made once and kept until the voice changes."""

from __future__ import annotations

import asyncio
import glob
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec
import structlog

from dia_server.audio.encode import is_whole_wav
from dia_server.files import replacing
from dia_server.pool.pool import Pool
from dia_server.services.account import Account
from dia_server.services.plan import Plan, SpeechRequest, find_voice
from dia_server.services.planner import Planner
from dia_server.services.speech import Speech
from dia_server.settings import Settings
from dia_server.voices.store import VoiceStore

TEXT = "Hello! This is how I sound when I read to you."
# For voices without a seed of their own.
SEED = 1
FORMAT = "wav"

log = structlog.get_logger(__name__)


class Previews:
    """Previews in a folder of the cache, one file for each voice."""

    def __init__(
        self, folder: Path, settings: Settings, pool: Pool, speech: Speech, voices: VoiceStore, planner: Planner
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._pool = pool
        self._speech = speech
        self._voices = voices
        self._planner = planner

    async def plan(self, name: str) -> Plan:
        """The preview of a voice, by its id or an alias.

        Raises:
            BadInput, VoiceNotFound: there is none to be had.
        """
        voice_id, voice = find_voice(name, field="voice_id", there=self._voices.list(), settings=self._settings)
        wanted = SpeechRequest(
            text=TEXT, voice=voice_id, format=FORMAT, seed=voice.voice_seed or SEED, voice_field="voice_id"
        )
        return await self._planner.plan(wanted)

    async def stream(self, plan: Plan) -> AsyncGenerator[bytes, None]:
        """The whole wav file in one piece, from the cache if nothing that it depends on has changed.

        Raises:
            DiaServerError: it can't be made.
        """
        fingerprint = self._pool.fingerprint(plan.model)
        if fingerprint is not None:
            with suppress(OSError):
                audio = await asyncio.to_thread(self._path(plan, fingerprint).read_bytes)
                if is_whole_wav(audio):
                    yield audio
                    return
        account = Account()
        async with aclosing(self._speech.whole(plan, account)) as pieces:
            audio = b"".join([piece async for piece in pieces])
        try:
            await asyncio.to_thread(self._keep, plan, self._path(plan, account.fingerprint or ""), audio)
        except OSError as error:
            log.warning("preview can't be kept", voice=plan.voice, reason=error.strerror)
        yield audio

    def _path(self, plan: Plan, fingerprint: str) -> Path:
        key = hashlib.sha256(msgspec.json.encode((plan, fingerprint))).hexdigest()[:32]
        return self._folder / f"{plan.voice}.{key}.{FORMAT}"

    def _keep(self, plan: Plan, path: Path, audio: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(audio)
        for other in self._folder.glob(f"{glob.escape(plan.voice)}.{'?' * 32}.{FORMAT}"):
            if other != path:
                other.unlink(missing_ok=True)
