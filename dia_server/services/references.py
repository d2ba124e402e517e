"""The recordings that voices imitate, as tasks refer to them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path
from time import time_ns

import msgspec

from dia_server.audio.wav import read_info
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.models.protocol import Manifest
from dia_server.tasks import Reference
from dia_server.voices.folder import SETTLED_NS
from dia_server.voices.prompts import Prompt, PromptStore
from dia_server.voices.text import Voice


class References:
    """Prompts by voice, each copied to a blob before it is referred to.

    So a clip goes on with the recording it began with, whatever becomes of the prompt meanwhile.
    """

    def __init__(self, prompts: PromptStore, blobs: Blobs) -> None:
        self._prompts = prompts
        self._blobs = blobs
        # The blobs of files that can't change any more without a new time or size.
        self._settled: dict[tuple[Path, int, int], str] = {}

    async def prepare(self, prompt_ids: Iterable[str]) -> None:
        """Copy those prompts that are new or changed, without delay for others; what fails will fail in `of`."""
        there = self._prompts.list()
        paths = [there[prompt_id].path for prompt_id in prompt_ids if prompt_id in there]
        fresh = [path for path in paths if not self._is_kept(path)]
        if fresh:
            await asyncio.gather(*(asyncio.to_thread(self._keep, path) for path in fresh), return_exceptions=True)

    def of(self, voice_id: str, voice: Voice, manifest: Manifest, field: str) -> Reference | None:
        """What a voice imitates; None for a voice that imitates nobody. `field` names it, for errors.

        Raises:
            BadInput: its prompt is not there, one is needed, or the model can't imitate it.
            OSError: the prompt can't be copied.
        """
        if voice.audio_prompt is None:
            if manifest.recordings.are_needed:
                raise BadInput(
                    f"Voice '{voice_id}' imitates no recording, and model '{manifest.name}' has no voice of its own; "
                    "upload an audio prompt, and name it in the voice",
                    param=field,
                )
            return None
        prompt = self._prompts.list().get(voice.audio_prompt)
        if prompt is None:
            raise BadInput(
                f"Voice '{voice_id}' imitates audio prompt '{voice.audio_prompt}', which is not there; upload it, or "
                f"change the voice. Audio prompts: {[*self._prompts.list()]}",
                param=field,
            )
        reference = self._refer(prompt)
        if voice.audio_prompt_transcript:
            reference = msgspec.structs.replace(reference, transcript=voice.audio_prompt_transcript)
        if found := objection(manifest, voice.audio_prompt, seconds_of(reference), reference.transcript):
            raise BadInput(f"Voice '{voice_id}': {found}", param=field)
        return reference

    async def of_prompt(self, prompt_id: str) -> Reference | None:
        """A prompt by its id; None if it is not there.

        Raises:
            OSError: it can't be copied.
        """
        prompt = self._prompts.list().get(prompt_id)
        return None if prompt is None else await asyncio.to_thread(self._refer, prompt)

    def _refer(self, prompt: Prompt) -> Reference:
        sha256 = self._keep(prompt.path)
        path = self._blobs.path(sha256, prompt.path.suffix)
        return Reference(path=str(path), sha256=sha256, transcript=prompt.transcript)

    def _is_kept(self, path: Path) -> bool:
        state = _state(path)
        sha256 = self._settled.get(state)
        if sha256 is None:
            return False
        try:
            return self._blobs.path(sha256, path.suffix).stat().st_size == state[2]
        except FileNotFoundError:
            return False

    def _keep(self, path: Path) -> str:
        state = _state(path)
        if self._is_kept(path):
            return self._settled[state]
        sha256 = self._blobs.keep(path)
        self._settled = {known: held for known, held in self._settled.items() if known[0] != path}
        if time_ns() - state[1] > SETTLED_NS:
            self._settled[state] = sha256
        return sha256


def seconds_of(reference: Reference) -> float:
    """How long it is; 0 for what is no recording, of which its model can say more, or isn't decoded yet."""
    # Of the blob itself, since the prompt may be another one by now.
    path = Path(reference.path)
    if path.suffix != ".wav":
        return 0.0
    try:
        return read_info(path).seconds
    except (OSError, ValueError):
        return 0.0


def check_recording(reference: Reference, manifest: Manifest, field: str) -> None:
    """Whether a model can imitate a recording that is no audio prompt; `field` names it, for errors.

    Raises:
        BadInput: it can't.
    """
    wanted = manifest.recordings
    if wanted.needs_transcript and not (reference.transcript or "").strip():
        raise BadInput(
            f"'{field}': the model has to know what is said in the recording; write it into a .txt file of the same "
            "name beside it, or upload it as an audio prompt with a transcript",
            param=field,
        )
    if (seconds := seconds_of(reference)) > wanted.most_seconds:
        raise BadInput(
            f"'{field}': the recording has {seconds:.1f} s, and the model takes {wanted.most_seconds:g} s at most",
            param=field,
        )


def objection(manifest: Manifest, prompt_id: str, seconds: float, transcript: str | None) -> str:
    """Why a model can't imitate an audio prompt of so many seconds, and what to do; empty if it can."""
    wanted, name = manifest.recordings, f"model '{manifest.name}'"
    if wanted.needs_transcript and not (transcript or "").strip():
        return (
            f"{name} has to know what is said in audio prompt '{prompt_id}'; have it written down by "
            f"POST /audio_prompts/{prompt_id}/transcribe, or write it by PUT /audio_prompts/{prompt_id}/transcript"
        )
    if seconds > wanted.most_seconds:
        return (
            f"audio prompt '{prompt_id}' has {seconds:.1f} s, and {name} takes {wanted.most_seconds:g} s at most; "
            "upload a shorter recording, with its transcript"
        )
    size, most = transcript_bytes(transcript), most_transcript_bytes(manifest, 1)
    if size > most:
        return (
            f"the transcript of audio prompt '{prompt_id}' has {size} bytes, and {name} takes {most} at most; if it "
            f"says more than the recording, correct it by PUT /audio_prompts/{prompt_id}/transcript, else upload a "
            "shorter recording, with its transcript"
        )
    return ""


def transcript_bytes(transcript: str | None) -> int:
    """How long a transcript is for a model, which reads UTF-8."""
    return len((transcript or "").encode())


def most_transcript_bytes(manifest: Manifest, count: int) -> float:
    """How long the transcripts of so many speakers may be together."""
    if manifest.dialogue is None:
        return math.inf
    # What stands before a piece has a tag for each of them, and blanks between them.
    return manifest.dialogue.most_bytes - len(" ".join(["[S1] "] * count))


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size
