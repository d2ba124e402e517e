"""Recordings that clients name or send along, by path, id or data URI: each becomes a blob before it is referred to."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path, PurePosixPath

import msgspec

from dia_server.blobs import Blobs
from dia_server.errors import BadInput, VoiceNotFound
from dia_server.services.conditioning import RAW
from dia_server.services.home_files import INPUTS, read_input
from dia_server.services.plan import find_voice
from dia_server.services.references import References
from dia_server.settings import Settings
from dia_server.tasks import Reference
from dia_server.voices.store import VoiceStore

# Base64 is decoded in parts of so many characters, so that other threads get their turns; four are three bytes.
_PART = 1_048_576
MOST_LABEL = 64


class Recording(msgspec.Struct, frozen=True):
    """What a client named.

    Attributes:
        label: a short name for lists.
        reference: None for a voice, whose id is the label then.
        problem: why there is nothing to refer to, which only ends the work itself.
    """

    label: str
    reference: Reference | None = None
    problem: str = ""


class Recordings:
    """Finds what clients name."""

    def __init__(
        self, settings: Settings, home: Path, blobs: Blobs, voices: VoiceStore, references: References
    ) -> None:
        self._settings = settings
        self._home = home
        self._blobs = blobs
        self._voices = voices
        self._references = references

    async def find(self, given: str, field: str) -> Recording:
        """A recording or a voice; `field` is what the client calls it, for errors.

        A file that is not there, or can't be read, is a `problem`: clients may name one that is yet to come.

        Raises:
            BadInput: nothing can be named so.
            OSError: its blob can't be written.
        """
        if is_data_uri(given):
            return await asyncio.to_thread(self._sent, given, field)
        if "/" in given:
            return await asyncio.to_thread(self._file, given, field)
        there = self._voices.list()
        # A voice over the prompt of the same name is that prompt, with a transcript and a style besides.
        is_also_voice = given in there and there[given].audio_prompt == given
        reference = None if is_also_voice else await self._references.of_prompt(given)
        if reference is not None:
            return Recording(given, reference)
        try:
            voice_id, _ = find_voice(given, field=field, there=there, settings=self._settings)
        except VoiceNotFound:
            folders = ", ".join(f"{folder}/" for folder in INPUTS)
            raise BadInput(
                f"'{field}': there is no audio prompt or voice '{given[:100]}'. It takes a path in {folders}, the id "
                "of an audio prompt or a voice, or a data URI with a recording",
                param=field,
            ) from None
        return Recording(voice_id)

    async def manner(self, given: str, field: str) -> Recording:
        """As `find`; of a voice, the recording that it imitates.

        Raises:
            BadInput, OSError: likewise, and where the voice imitates none.
        """
        found = await self.find(given, field)
        if found.reference is not None or found.problem:
            return found
        prompt = self._voices.get(found.label, param=field).audio_prompt
        reference = None if prompt is None else await self._references.of_prompt(prompt)
        if reference is None:
            raise BadInput(f"'{field}': voice '{found.label}' has no recording", param=field)
        return Recording(found.label, reference)

    def _sent(self, uri: str, field: str) -> Recording:
        data = _decoded(uri, self._settings.max_upload_bytes, field)
        return Recording("recording", self._kept(data, None))

    def _file(self, path: str, field: str) -> Recording:
        most = self._settings.max_upload_bytes
        label = path[:MOST_LABEL]
        try:
            data = read_input(self._home, path, most, field)
        except OSError as error:
            return Recording(label, _NOTHING, f"'{field}': '{path[:200]}' can't be read: {error.strerror}")
        return Recording(label, self._kept(data, self._transcript(path, field)))

    def _transcript(self, path: str, field: str) -> str | None:
        """What a text file of the same name beside a recording says."""
        beside = str(PurePosixPath(path).with_suffix(".txt"))
        try:
            text = read_input(self._home, beside, self._settings.max_transcript_characters * 4, field).decode().strip()
        except (BadInput, OSError, UnicodeDecodeError):
            return None
        return text if text and len(text) <= self._settings.max_transcript_characters else None

    def _kept(self, data: bytes, transcript: str | None) -> Reference:
        sha256 = self._blobs.put(data, RAW)
        return Reference(path=str(self._blobs.path(sha256, RAW)), sha256=sha256, transcript=transcript)


# Stands in a plan that is never carried out.
_NOTHING = Reference(path="", sha256="", transcript="nothing")


def is_data_uri(given: str) -> bool:
    """Whether a recording was sent along."""
    return given.lstrip()[:5].lower() == "data:"


def _decoded(uri: str, most_bytes: int, field: str) -> bytes:
    head, comma, text = uri.strip().partition(",")
    # As programs wrap it that write it for mail.
    text = "".join(text.split())
    if not comma or not head.lower().endswith(";base64"):
        raise BadInput(f"'{field}': the data URI must be like data:audio/wav;base64,UklGR…", param=field)
    parts = [text[start : start + _PART] for start in range(0, len(text), _PART)]
    try:
        data = b"".join(base64.b64decode(part, validate=True) for part in parts)
    except ValueError as error:
        raise BadInput(f"'{field}': the data URI is not valid base64: {error}", param=field) from None
    if "=" in text[:-2]:
        raise BadInput(f"'{field}': the data URI is not valid base64: it ends early", param=field)
    if len(data) > most_bytes:
        raise BadInput(f"'{field}': the recording is larger than the {most_bytes} bytes of an upload", param=field)
    return data
