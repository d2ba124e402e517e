"""The recording that a task refers to."""

from __future__ import annotations

import hashlib
import io
import wave
from pathlib import Path

import numpy as np

from dia_server.audio.samples import Samples
from dia_server.tasks import Reference


class BadRecording(Exception):
    """It can't be imitated; the message says why."""


def read_reference(reference: Reference, name: str = "The voice's recording") -> tuple[Samples, int]:
    """Mono samples of a recording, and their rate in Hz; `name` is what errors call it.

    Raises:
        BadRecording: it is not there, not the one that is meant, or no 16-bit wav file.
    """
    try:
        data = Path(reference.path).read_bytes()
    except OSError as error:
        raise BadRecording(f"{name} can't be read ({error.strerror}); upload its audio prompt again") from None
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise BadRecording(f"{name} is not the one that was asked for; upload its audio prompt again")
    return _read(data, name)


def _read(data: bytes, name: str) -> tuple[Samples, int]:
    """Mono samples of a 16-bit wav file, and their rate in Hz."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, sample_bytes, sample_rate = file.getparams()[:3]
            pcm = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise BadRecording(f"{name} is no wav file ({str(error) or 'it ends too early'})") from None
    if sample_bytes != np.dtype(np.int16).itemsize or not sample_rate:
        raise BadRecording(f"{name} is no wav file of 16-bit PCM; upload it as an audio prompt")
    whole = len(pcm) // (channels * sample_bytes) * channels * sample_bytes
    samples = np.frombuffer(pcm[:whole], "<i2").astype(np.float32) / np.float32(32768)
    return samples.reshape(-1, channels).mean(axis=1), sample_rate
