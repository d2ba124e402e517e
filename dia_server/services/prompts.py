"""Audio prompts: from an uploaded file to a recording that a voice can imitate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from dia_server.errors import BadInput, Conflict, DiaServerError
from dia_server.pool.pool import Pool
from dia_server.services.decoding import decode_recording
from dia_server.services.mappings import Mappings
from dia_server.settings import Settings
from dia_server.voices.folder import File
from dia_server.voices.prompts import SAMPLE_RATE, Origin, Prompt, PromptStore, now

# As the Dia server's documentation has it.
ADVISED_SECONDS = (3, 30)

log = structlog.get_logger(__name__)


class Transcriber(Protocol):
    """Writes down what is said in a recording."""

    async def transcribe(self, path: Path) -> str:
        """What is said in a mono wav file.

        Raises:
            DiaServerError: it can't be told.
        """


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an upload; `warning` is what the client should know of the recording."""

    prompt: Prompt
    is_new: bool
    warning: str | None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a look through the folder found: prompts that are new or newly transcribed, and files that are none."""

    prompt_ids: list[str]
    problems: dict[str, str]


class Prompts:
    """Stores, describes and removes audio prompts; what is written is written by one at a time."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        store: PromptStore,
        mappings: Mappings,
        transcriber: Transcriber,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._store = store
        self._mappings = mappings
        self._transcriber = transcriber
        self._writing = asyncio.Lock()
        self._listening = asyncio.Lock()
        # The recordings that are known to be those that their notes tell of.
        self._noted: dict[str, File] = {}

    async def upload(
        self, prompt_id: str, file: Path, file_hash: str, *, overwrite: bool = False, consent: str | None = None
    ) -> Uploaded:
        """Make a prompt of a file that nobody vouches for; `file_hash` is its sha256.

        Raises:
            BadInput: the id, or the recording, can't be used; the message says why.
            Conflict: the id is taken by another recording.
            Unavailable: no work is taken now.
        """
        self._store.check_id(prompt_id)
        if (same := self._taken(prompt_id, file_hash, overwrite=overwrite)) is not None:
            return Uploaded(prompt=same, is_new=False, warning=_warning(same.sound.seconds))
        samples, original_rate = await decode_recording(self._pool, file, self._settings)
        seconds = len(samples) / SAMPLE_RATE
        origin = Origin(
            hash=file_hash,
            discovered_at=now(),
            original_sample_rate=original_rate,
            consent=consent,
        )
        async with self._writing:
            # Somebody else's upload may have come first.
            same = self._taken(prompt_id, file_hash, overwrite=overwrite)
            if same is None:
                before = self._store.list().get(prompt_id)
                await asyncio.to_thread(self._store.put, prompt_id, samples, origin)
                if before is not None and before.transcript is not None:
                    await self._forget(prompt_id, before.transcript)
            return Uploaded(prompt=same or self._store.get(prompt_id), is_new=same is None, warning=_warning(seconds))

    async def delete(self, prompt_id: str, *, force: bool) -> None:
        """Remove a prompt.

        Raises:
            PromptNotFound: there is none.
            Conflict: voices imitate it, and `force` is off.
        """
        async with self._writing:
            self._store.get(prompt_id)
            users = self._mappings.users_of(prompt_id)
            if users and not force:
                raise Conflict(
                    f"Audio prompt '{prompt_id}' is used by {', '.join(users)}; "
                    "change these voices first, or add ?force=true"
                )
            await asyncio.to_thread(self._store.delete, prompt_id)

    async def correct(self, prompt_id: str, transcript: str) -> list[str]:
        """Write down what is really said in a prompt; the ids of the voices that learn of it.

        Raises:
            PromptNotFound: there is none.
            BadInput: the transcript is none.
        """
        self._store.get(prompt_id)
        tidy = self._mappings.tidy_transcript(transcript, "transcript")
        if not tidy:
            raise BadInput("'transcript' is empty", param="transcript")
        async with self._writing:
            prompt = self._store.get(prompt_id)
            origin = await asyncio.to_thread(self._store.origin_of, prompt)
            await asyncio.to_thread(self._store.set_transcript, prompt_id, tidy, "manual", origin)
        users = self._mappings.users_of(prompt_id)
        for voice_id in users:
            await self._mappings.update(voice_id, {"audio_prompt_transcript": tidy})
        return users

    async def transcribe(self, prompt_id: str, *, force: bool) -> str:
        """Have Whisper write down what is said in a prompt; the transcript.

        Raises:
            PromptNotFound: there is none.
            Conflict: somebody wrote its transcript, and `force` is off; or it changed meanwhile.
            BadInput: nothing is said in it.
            DiaServerError: it can't be told now what is said.
        """
        prompt = self._store.get(prompt_id)
        if prompt.transcript_source in ("manual", "file") and not force:
            raise Conflict(
                f"The transcript of audio prompt '{prompt_id}' was written by hand; "
                'send {"force_retranscribe": true} to replace it'
            )
        is_heard = await self.write_down(prompt_id, again=True)
        now_there = self._store.get(prompt_id)
        if is_heard and now_there.transcript:
            return now_there.transcript
        if _state(now_there) != _state(prompt):
            raise Conflict(f"Audio prompt '{prompt_id}' was changed meanwhile; try again")
        raise BadInput(f"Whisper hears no words in audio prompt '{prompt_id}'")

    async def discover(self, *, force: bool) -> Found:
        """Take note of recordings that were put into the folder, and have those without a transcript written down.

        With `force` all are, those that somebody has corrected too.
        """
        found, unwritable = [], {}
        for prompt_id, prompt in self._store.list().items():
            is_new = is_heard = False
            try:
                is_new = await self.take_note(prompt_id, prompt)
                is_heard = await self.write_down(prompt_id, again=force)
            except DiaServerError as error:
                log.warning("audio prompt can't be transcribed", prompt=prompt_id, reason=error.message)
            except OSError as error:
                log.warning("audio prompt can't be changed", prompt=prompt_id, reason=error.strerror)
                unwritable[prompt_id] = f"It can't be changed: {error.strerror}"
            if is_new or is_heard:
                found.append(prompt_id)
        return Found(prompt_ids=found, problems=self._store.problems | unwritable)

    async def take_note(self, prompt_id: str, prompt: Prompt) -> bool:
        """Whether a recording was put there by hand, as a new one or in another one's place; it is noted then.

        What becomes of the old one's transcript, `PromptStore.take_note` says. Voices that learned of one that goes
        forget it.

        Raises:
            OSError: the recording can't be read, or its note not written.
        """
        if prompt.origin is not None and self._noted.get(prompt_id) == prompt.file:
            return False
        try:
            origin = await asyncio.to_thread(self._store.new_origin, prompt)
        except FileNotFoundError:
            return False
        is_new = not _tells_of(prompt.origin, origin) and await self._write_note(prompt_id, prompt.file, origin)
        self._noted[prompt_id] = prompt.file
        return is_new

    async def _write_note(self, prompt_id: str, file: File, origin: Origin) -> bool:
        """Whether a note was written; not for a recording that is gone, changed or noted meanwhile."""
        async with self._writing:
            prompt = (await asyncio.to_thread(self._store.list)).get(prompt_id)
            if prompt is None or prompt.file != file or _tells_of(prompt.origin, origin):
                return False
            await asyncio.to_thread(self._store.take_note, prompt_id, prompt, origin)
            if prompt.transcript is not None and prompt.transcript_source == "whisper":
                await self._forget(prompt_id, prompt.transcript)
        log.info("audio prompt discovered", prompt=prompt_id, is_replaced=prompt.origin is not None)
        return True

    async def write_down(self, prompt_id: str, *, again: bool = False) -> bool:
        """Have a prompt without a transcript, or with `again` any, transcribed; whether it has a new one.

        One is transcribed at a time, so that a full folder takes no places in the queue from speech. What somebody
        writes meanwhile stays.

        Raises:
            DiaServerError: it can't be told what is said.
            OSError: it can't be written down.
        """
        async with self._listening:
            prompt = (await asyncio.to_thread(self._store.list)).get(prompt_id)
            if prompt is None or (prompt.transcript_source is not None and not again):
                return False
            transcript = await self._transcriber.transcribe(prompt.path)
            async with self._writing:
                now_there = (await asyncio.to_thread(self._store.list)).get(prompt_id)
                if not transcript or now_there is None or _state(now_there) != _state(prompt):
                    return False
                origin = await asyncio.to_thread(self._store.origin_of, now_there)
                await asyncio.to_thread(self._store.set_transcript, prompt_id, transcript, "whisper", origin)
                if prompt.transcript not in (None, transcript):
                    await self._forget(prompt_id, prompt.transcript)
                log.info("audio prompt transcribed", prompt=prompt_id)
                return True

    async def _forget(self, prompt_id: str, transcript: str) -> None:
        """A transcript doesn't hold any more: take it from the voices that learned of it."""
        for voice_id in self._mappings.users_of(prompt_id):
            await self._mappings.unlearn(voice_id, transcript)

    def _taken(self, prompt_id: str, file_hash: str, *, overwrite: bool) -> Prompt | None:
        """The prompt that is there already, if it was made of the same file.

        Raises:
            Conflict: it was made of another, and is not to be overwritten.
        """
        prompt = self._store.list().get(prompt_id)
        if prompt is not None and prompt.origin is not None and prompt.origin.hash == file_hash:
            return prompt
        if prompt is not None and not overwrite:
            raise Conflict(
                f"Audio prompt '{prompt_id}' is there already; send overwrite=true to replace it", param="prompt_id"
            )
        return None


def _tells_of(note: Origin | None, found: Origin) -> bool:
    return note is not None and note.sound_hash == found.sound_hash


def _state(prompt: Prompt) -> tuple[object, ...]:
    """Changes when somebody replaces the recording or writes down what is said in it."""
    return prompt.file, prompt.transcript, prompt.transcript_source


def _warning(seconds: float) -> str | None:
    least, most = ADVISED_SECONDS
    if least <= seconds <= most:
        return None
    return f"The recording has {seconds:.1f} s; voices come out best with {least} to {most} s"
