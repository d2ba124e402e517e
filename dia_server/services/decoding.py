"""Untrusted audio files, decoded in the pool's decode lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dia_server.audio.samples import Samples
from dia_server.errors import BadInput, GenerationFailed
from dia_server.models.decoder import MANIFEST
from dia_server.pool.pool import Pool
from dia_server.tasks import Decode

# Of the samples, in Hz.
DECODED_RATE = MANIFEST.sample_rate


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
