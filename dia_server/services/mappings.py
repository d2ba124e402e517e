"""Voices made, changed and removed by clients."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from dia_server.errors import BadInput
from dia_server.script.text import clean
from dia_server.settings import Settings
from dia_server.voices.prompts import PromptStore
from dia_server.voices.store import VoiceStore
from dia_server.voices.text import Voice


class Mappings:
    """Writes voices, one at a time."""

    def __init__(self, settings: Settings, voices: VoiceStore, prompts: PromptStore) -> None:
        self._settings = settings
        self._voices = voices
        self._prompts = prompts
        self._writing = asyncio.Lock()

    async def create(self, voice_id: str, fields: dict[str, Any]) -> Voice:
        """A new voice; `fields` are those of `Voice` that are not as by default.

        Raises:
            BadInput: the id is none, or a field is wrong.
            Conflict: the id is taken.
        """
        async with self._writing:
            self._voices.check_free(voice_id)
            return await self._write(voice_id, Voice(), fields)

    async def update(self, voice_id: str, fields: dict[str, Any]) -> Voice:
        """A voice with other values of some fields.

        Raises:
            VoiceNotFound: there is none.
            BadInput: a field is wrong.
        """
        async with self._writing:
            return await self._write(voice_id, self._voices.get(voice_id), fields)

    async def unlearn(self, voice_id: str, transcript: str) -> None:
        """Take a transcript from a voice, if it still has it."""
        async with self._writing:
            voice = self._voices.list().get(voice_id)
            if voice is not None and voice.audio_prompt_transcript == transcript:
                await self._write(voice_id, voice, {"audio_prompt_transcript": None})

    async def delete(self, voice_id: str) -> Voice:
        """Remove a voice, which is returned.

        Raises:
            VoiceNotFound: there is none.
        """
        async with self._writing:
            voice = self._voices.get(voice_id)
            await asyncio.to_thread(self._voices.delete, voice_id)
            return voice

    def users_of(self, prompt_id: str) -> list[str]:
        """The ids of the voices that imitate a prompt."""
        return [voice_id for voice_id, voice in self._voices.list().items() if voice.audio_prompt == prompt_id]

    def tidy_transcript(self, transcript: str, param: str) -> str:
        """A transcript as it is stored; `param` is what the client calls it.

        Raises:
            BadInput: too long, or of characters that nobody says.
        """
        most = self._settings.max_transcript_characters
        if len(transcript) > most:
            raise BadInput(
                f"The transcript has {len(transcript)} characters, allowed are {most}; "
                "raise max_transcript_characters for more",
                param=param,
            )
        return clean(transcript, param)

    async def _write(self, voice_id: str, before: Voice, fields: dict[str, Any]) -> Voice:
        prompt = fields.get("audio_prompt")
        if prompt is not None and prompt not in (known := self._prompts.list()):
            raise BadInput(f"Audio prompt '{prompt[:100]}' not found. Audio prompts: {[*known]}", param="audio_prompt")
        if (transcript := fields.get("audio_prompt_transcript")) is not None:
            fields["audio_prompt_transcript"] = self.tidy_transcript(transcript, "audio_prompt_transcript") or None
        voice = msgspec.structs.replace(before, **fields)
        await asyncio.to_thread(self._voices.write, voice_id, voice)
        return voice
