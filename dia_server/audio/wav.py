"""The wav files that the server keeps: 16-bit samples at any rate, mono or more."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec
import numpy as np

from dia_server.audio.samples import Samples, to_int16

_BLOCK_FRAMES = 65_536
_SAMPLE_BYTES = 2


class WavInfo(msgspec.Struct, frozen=True):
    """What a header says; `frames` are samples of one channel, `sample_rate` is in Hz."""

    frames: int
    sample_rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """The length."""
        return self.frames / self.sample_rate


class WavWriter:
    """A mono file that grows while its samples come. Use as a context manager, which leaves `file` open."""

    def __init__(self, file: IO[bytes], sample_rate: int) -> None:
        """`sample_rate` is in Hz."""
        # wave closes only what it has opened itself.
        self._wave = wave.open(file, "wb")  # noqa: SIM115 - closed by `__exit__`
        self._wave.setparams((1, _SAMPLE_BYTES, sample_rate, 0, "NONE", ""))

    def write(self, samples: Samples) -> None:
        """Add samples."""
        self._wave.writeframes(to_int16(samples).astype("<i2", copy=False).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wave.close()


def write_wav(file: IO[bytes], samples: Samples, sample_rate: int) -> None:
    """Write mono samples as a whole file."""
    with WavWriter(file, sample_rate) as writer:
        writer.write(samples)


def read_info(path: Path) -> WavInfo:
    """What a file's header says, no more than the file holds.

    Raises:
        ValueError: not 16-bit PCM in a wav file; the message says so.
        OSError: it can't be read.
    """
    size = path.stat().st_size
    with _opened(path) as reader:
        channels, rate = reader.getnchannels(), reader.getframerate()
        frames = min(reader.getnframes(), size // (_SAMPLE_BYTES * channels))
    if not rate:
        raise ValueError("Its sample rate is 0")
    return WavInfo(frames, rate, channels)


def peaks(path: Path, count: int) -> list[float]:
    """`count` peaks from 0 to 1, each of an equal share of the file; fewer for a file of fewer samples.

    Raises:
        ValueError, OSError: as `read_info`.
    """
    info = read_info(path)
    loudest = np.zeros(min(count, info.frames), np.float32)
    position = 0
    for block in _blocks(path):
        shares = np.arange(position, position + len(block)) * len(loudest) // max(1, info.frames)
        np.maximum.at(loudest, np.minimum(shares, len(loudest) - 1), block)
        position += len(block)
    return [round(float(peak), 3) for peak in loudest]


def _blocks(path: Path) -> Iterator[Samples]:
    """The loudest channel's absolute values, block by block."""
    with _opened(path) as reader:
        channels = reader.getnchannels()
        while data := reader.readframes(_BLOCK_FRAMES):
            whole = len(data) - len(data) % (_SAMPLE_BYTES * channels)
            samples = np.abs(np.frombuffer(data[:whole], "<i2").astype(np.float32)) / np.float32(32768)
            yield samples.reshape(-1, channels).max(axis=1)


def _opened(path: Path) -> wave.Wave_read:
    try:
        reader = wave.open(str(path), "rb")  # noqa: SIM115 - the caller closes it
    # The last is what it says of chunks that are longer than the file.
    except (wave.Error, EOFError, RuntimeError) as error:
        raise ValueError(f"It is no wav file of 16-bit PCM ({str(error) or 'it ends too early'})") from None
    if reader.getsampwidth() != _SAMPLE_BYTES:
        bits = 8 * reader.getsampwidth()
        reader.close()
        raise ValueError(f"It has {bits} bits a sample; write it as 16-bit PCM, or upload it")
    return reader
