"""Audio prompts without a hand: recordings in the folder are taken note of and written down in the background."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from time import monotonic

import structlog

from dia_server.background import in_background, wait_for_event
from dia_server.errors import DiaServerError, Unavailable
from dia_server.pool.pool import Pool
from dia_server.services.prompts import Prompts
from dia_server.settings import Settings
from dia_server.voices.folder import File
from dia_server.voices.prompts import Prompt, PromptStore

LOOK_SECONDS = 1.0
# A file that has been the same for so long is not being copied any more. One whose copying only paused is taken note
# of again once it goes on.
SETTLED_SECONDS = 2.0
# Clients ask for a transcript two seconds after the answer.
PATIENCE_SECONDS = 2.0
# Long enough for an admin to mend what is wrong, and doubled while it stays wrong.
REST_SECONDS, LONGEST_REST_SECONDS = 60.0, 600.0

log = structlog.get_logger(__name__)


class Discovery:
    """Looks at the folder of prompts once a second, and has one recording at a time written down.

    Recordings that Whisper fails on, or hears nothing in, are left alone until they change.
    """

    def __init__(self, settings: Settings, pool: Pool, store: PromptStore, prompts: Prompts) -> None:
        self._settings = settings
        self._pool = pool
        self._store = store
        self._prompts = prompts
        self._same_since: dict[File, float] = {}
        self._asked: dict[str, asyncio.Event] = {}
        self._woken = asyncio.Event()
        self._given_up: dict[str, File] = {}
        self._failures = Counter[str]()
        self._noting = Rest("audio prompts can't be taken note of")
        self._listening = Rest("audio prompts can't be transcribed")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do what the settings ask for until the block ends, or the pool drains."""
        async with in_background(self._live(), "discovery") as keeper:
            self._pool.at_drain(keeper.cancel)
            yield

    async def heard(self, prompt_id: str, prompt: Prompt) -> str | None:
        """The transcript of a prompt that has just come, which goes first; None after `PATIENCE_SECONDS` without it."""
        if not self._settings.auto_transcribe or self._listening.is_on:
            return None
        asked = self._asked.setdefault(prompt_id, asyncio.Event())
        self._woken.set()
        await wait_for_event(asked, PATIENCE_SECONDS)
        now_there = self._store.list().get(prompt_id)
        return now_there.transcript if now_there is not None and now_there.file == prompt.file else None

    async def _live(self) -> None:
        while True:
            is_wanted = self._settings.auto_discover_prompts or self._settings.auto_transcribe
            if is_wanted and await self._look():
                continue
            await wait_for_event(self._woken, LOOK_SECONDS)
            self._woken.clear()

    async def _look(self) -> bool:
        """Whether there may be more to do at once."""
        asked = set(self._asked)
        prompts = await asyncio.to_thread(self._store.list)
        now = monotonic()
        self._same_since = {each.file: self._same_since.get(each.file, now) for each in prompts.values()}
        if self._settings.auto_discover_prompts:
            await self._take_notes(prompts)
        return self._settings.auto_transcribe and await self._write_one_down(prompts, asked)

    def _is_settled(self, prompt: Prompt) -> bool:
        return monotonic() - self._same_since[prompt.file] >= SETTLED_SECONDS

    async def _take_notes(self, prompts: Mapping[str, Prompt]) -> None:
        if self._noting.is_on:
            return
        failure = None
        for prompt_id, prompt in prompts.items():
            try:
                if self._is_settled(prompt):
                    await self._prompts.take_note(prompt_id, prompt)
            except Exception as error:  # noqa: BLE001 - whatever it was, the others' turn comes, and this one's again
                failure = error
        self._noting.begin(failure) if failure else self._noting.end()

    async def _write_one_down(self, prompts: Mapping[str, Prompt], asked: set[str]) -> bool:
        """Whether there was one to write down; `asked` are ids that were asked for before `prompts` was read."""
        # Whisper's start takes processors from models that are about to come up.
        is_starting = any(place.state == "starting" for place in self._pool.places)
        if self._listening.is_on or is_starting:
            return False
        waiting = [prompt_id for prompt_id, prompt in prompts.items() if self._waits(prompt_id, prompt)]
        self._answer(asked.difference(waiting))
        if not waiting:
            return False
        prompt_id = min(waiting, key=lambda each: (each not in asked, self._failures[each]))
        try:
            is_heard = await self._write_down(prompt_id)
        except Exception as error:  # noqa: BLE001 - whatever it was, the others' turn comes, and this one's again
            self._failures[prompt_id] += 1
            self._listening.begin(error)
            self._answer(set(self._asked))
            return False
        self._listening.end()
        if not is_heard:
            self._given_up[prompt_id] = prompts[prompt_id].file
        self._answer({prompt_id})
        return True

    def _waits(self, prompt_id: str, prompt: Prompt) -> bool:
        """A prompt's note is there, and its transcript is not."""
        is_noted = prompt.origin is not None and (prompt_id in self._asked or self._is_settled(prompt))
        return is_noted and prompt.transcript_source is None and self._given_up.get(prompt_id) != prompt.file

    async def _write_down(self, prompt_id: str) -> bool:
        """Whether Whisper heard something.

        Raises:
            Unavailable: it can't listen to anything now.
        """
        try:
            return await self._prompts.write_down(prompt_id)
        except Unavailable:
            raise
        except DiaServerError as error:
            log.warning("audio prompt can't be transcribed", prompt=prompt_id, reason=error.message)
            return False
        except OSError as error:
            log.warning("transcript can't be stored", prompt=prompt_id, reason=error.strerror, file=error.filename)
            return False

    def _answer(self, prompt_ids: set[str]) -> None:
        """Tell those who wait for prompts that there is nothing more to wait for."""
        for prompt_id in prompt_ids:
            if asked := self._asked.pop(prompt_id, None):
                asked.set()


class Rest:
    """A pause after a failure, twice as long after each further one; the log has one line for each reason."""

    def __init__(self, failure: str) -> None:
        """`failure` is what the log says."""
        self._failure = failure
        self._seconds = REST_SECONDS
        self._over = 0.0
        self._reason = ""

    @property
    def is_on(self) -> bool:
        """It is not yet time to try again."""
        return monotonic() < self._over

    def begin(self, error: Exception) -> None:
        """It failed."""
        reason = error.message if isinstance(error, DiaServerError) else repr(error)
        if reason != self._reason:
            log.warning(self._failure, reason=reason, next_try_seconds=self._seconds)
        self._reason = reason
        self._over = monotonic() + self._seconds
        self._seconds = min(2 * self._seconds, LONGEST_REST_SECONDS)

    def end(self) -> None:
        """It went well."""
        self._seconds, self._reason = REST_SECONDS, ""
