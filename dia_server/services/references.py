"""The recordings that voices imitate, as tasks refer to them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from pathlib import Path
from time import time_ns

from dia_server.audio.wav import read_info
from dia_server.blobs import Blobs
from dia_server.errors import BadInput
from dia_server.models.protocol import Recordings
from dia_server.tasks import Reference
from dia_server.voices.folder import SETTLED_NS
from dia_server.voices.prompts import PromptStore
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

    def of(self, voice_id: str, voice: Voice, wanted: Recordings, field: str) -> Reference | None:
        """What a voice imitates; None for a voice that imitates nobody. `field` names it, for errors.

        Raises:
            BadInput: its prompt is not there, or not as `wanted`, or one is needed.
            OSError: the prompt can't be copied.
        """
        if voice.audio_prompt is None:
            if wanted.are_needed:
                raise BadInput(
                    f"Voice '{voice_id}' imitates no recording, and the model has no voice of its own; upload an audio "
                    "prompt, and name it in the voice",
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
        sha256 = self._keep(prompt.path)
        reference = Reference(
            path=str(self._blobs.path(sha256, prompt.path.suffix)),
            sha256=sha256,
            transcript=voice.audio_prompt_transcript or prompt.transcript,
        )
        if problem := _problem(reference, wanted):
            raise BadInput(f"Voice '{voice_id}': {problem.format(prompt=voice.audio_prompt)}", param=field)
        return reference

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
    """How long it is; 0 for what is no recording, of which its model can say more."""
    # Of the blob itself, since the prompt may be another one by now.
    try:
        return read_info(Path(reference.path)).seconds
    except (OSError, ValueError):
        return 0.0


def _problem(reference: Reference, wanted: Recordings) -> str:
    """Why a model can't imitate a recording, and what to do; empty if it can."""
    if wanted.needs_transcript and not (reference.transcript or "").strip():
        return (
            "the model has to know what is said in audio prompt '{prompt}'; have it written down by "
            "POST /audio_prompts/{prompt}/transcribe, or write it by PUT /audio_prompts/{prompt}/transcript"
        )
    if wanted.most_seconds < math.inf and (seconds := seconds_of(reference)) > wanted.most_seconds:
        return (
            f"audio prompt '{{prompt}}' has {seconds:.1f} s, and the model takes {wanted.most_seconds:g} s at most; "
            "upload a shorter recording, with its transcript"
        )
    return ""


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size
