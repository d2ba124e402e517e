"""Untrusted audio files, decoded in the pool's decode lane."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from dia_server.audio.samples import NO_SAMPLES, Samples
from dia_server.errors import BadInput, GenerationFailed
from dia_server.models.decoder import MANIFEST
from dia_server.pool.pool import Pool
from dia_server.tasks import Decode


class Decoded(msgspec.Struct, frozen=True, kw_only=True):
    """What an audio file holds.

    Attributes:
        samples: mono, at the decoder's rate.
        format: of the file.
        original_sample_rate: of the file, in Hz.
    """

    samples: Samples
    format: str
    original_sample_rate: int


async def decode_file(pool: Pool, path: Path, max_seconds: float) -> Decoded:
    """Decode a file, `max_seconds` of it at most.

    Raises:
        BadInput: it is no audio file, or too much of one; the message says why.
        Unavailable: no work is taken now.
    """
    with pool.open(MANIFEST.name) as clip:
        run = clip.run(Decode(path=str(path), max_seconds=max_seconds), urgent=True)
        try:
            pieces = [np.frombuffer(heard, "<f4") async for heard in run if isinstance(heard, bytes)]
        except GenerationFailed:
            # Whatever the decoder can't stand is the file's fault.
            raise BadInput("Failed to process audio file: the decoder broke down over it") from None
    return Decoded(
        samples=np.concatenate(pieces) if pieces else NO_SAMPLES,
        format=run.value["format"],
        original_sample_rate=run.value["sample_rate"],
    )
