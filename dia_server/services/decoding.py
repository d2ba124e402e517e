"""Untrusted audio files, decoded in the pool's decode lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dia_server.audio.recording import clean
from dia_server.audio.samples import NO_SAMPLES, Samples
from dia_server.errors import BadInput, GenerationFailed
from dia_server.models.decoder import MANIFEST
from dia_server.pool.pool import Pool
from dia_server.settings import Settings
from dia_server.tasks import Decode

# Of the samples, in Hz.
DECODED_RATE = MANIFEST.sample_rate


async def decode_recording(pool: Pool, untrusted: Path, settings: Settings) -> tuple[Samples, int]:
    """A recording of a voice, cleaned: mono samples at `DECODED_RATE`, and the file's own rate in Hz.

    Raises:
        BadInput: it can't be used; the message says why.
        Unavailable: no work is taken now.
    """
    pieces = [NO_SAMPLES]
    original_rate = await decode_file(pool, untrusted, settings.max_prompt_seconds, pieces.append)
    samples = await asyncio.to_thread(clean, np.concatenate(pieces), DECODED_RATE)
    seconds, least = len(samples) / DECODED_RATE, settings.min_prompt_seconds
    if seconds < least:
        raise BadInput(f"The recording has {seconds:.2f} s of sound; at least {least:g} s are needed")
    return samples, original_rate


async def decode_file(pool: Pool, untrusted: Path, max_seconds: float, take: Callable[[Samples], object]) -> int:
    """Decode a file, `max_seconds` of it at most; returns its own sample rate, in Hz.

    `take` gets the samples as they come, mono at `DECODED_RATE`, in a thread.

    Raises:
        BadInput: it is no audio file, or too much of one; the message says why.
        Unavailable: no work is taken now.
    """
    with pool.open(MANIFEST.name) as clip:
        run = clip.run(Decode(path=str(untrusted), max_seconds=max_seconds), urgent=True)
        try:
            async for heard in run:
                if isinstance(heard, bytes):
                    await asyncio.to_thread(take, np.frombuffer(heard, "<f4"))
        except GenerationFailed:
            # Whatever the decoder can't stand is the file's fault.
            raise BadInput("Failed to process audio file: the decoder broke down over it") from None
    sample_rate: int = run.value["sample_rate"]
    return sample_rate
