"""Untrusted files become mono samples, a second at a time; bounds hold while they are decoded, not only after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import av
import av.error
import numpy as np
from av.container import InputContainer

from dia_server.audio.resample import Resampler
from dia_server.audio.samples import Samples
from dia_server.models.decoder import MANIFEST
from dia_server.models.decoder.claims import flac_format, missing_wav_bytes
from dia_server.models.decoder.limits import limit_cpu, limit_memory
from dia_server.models.decoder.sniff import CONTAINERS, HEAD_BYTES, Container, sniff
from dia_server.models.fingerprint import fingerprint
from dia_server.models.protocol import Engine, NoSetup, Sequential
from dia_server.tasks import Audio, Decode, Done, Event, Failed

# What a client of the Dia server looks for.
FAILURE = "Failed to process audio file: "

RATES = (4_000, 192_000)
CHANNELS = 8
# A minute of eight channels at 192 kHz has 370 MB; what people upload has 20.
DECODED_BYTES = 268_435_456
# Where the task takes longer recordings, so much for each second: stereo in 48 kHz floats.
DECODED_BYTES_PER_SECOND = 384_000
# A header counts in its own units; a codec adds a frame or two at the ends.
CUT_SECONDS = 0.2

CODECS = (
    *("pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le"),
    *("pcm_f64le", "pcm_alaw", "pcm_mulaw", "mp3", "mp3float", "flac", "vorbis", "opus", "libopus", "aac", "alac"),
)


class _Refused(Exception):
    """The file is not to be decoded; the message says why."""


def load(threads: int, setup: NoSetup) -> Engine:
    """A ready engine; from here on its process is held to the limits."""
    del setup
    name = fingerprint(
        "decoder", packages=("av", "soxr"), revision="1", dtype="float32", threads=threads, slots=Sequential.slots
    )
    limit_memory()
    return Sequential(decode, name)


def decode(task: Decode) -> Iterator[Event]:
    """The file's sound as mono events of a second at most, or why there is none."""
    limit_cpu()
    try:
        with Path(task.path).open("rb") as file:
            yield from _events(file, task.max_seconds)
    except _Refused as refused:
        yield Failed(f"{FAILURE}{refused}", is_input_wrong=True)
    except MemoryError:
        yield Failed(f"{FAILURE}it needs more memory than decoding gets", is_input_wrong=True)
    except (av.error.FFmpegError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.error.FFmpegError) else error
        yield Failed(f"{FAILURE}it is damaged ({reason})", is_input_wrong=True)


def _events(file: IO[bytes], max_seconds: float) -> Iterator[Event]:
    container = _recognise(file)
    # No other protocol, reader or decoder than the one that fits; and a file object has no way to further files.
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": container.demuxer,
        "codec_whitelist": ",".join(CODECS),
    }
    with av.open(file, "r", format=container.demuxer, options=options, metadata_errors="ignore") as opened:
        sound = _Sound(opened, container, max_seconds)
        sent = 0
        for block in _blocks(sound.resampled()):
            yield Audio(sent, block.tobytes())
            sent += len(block)
        yield Done(sent, {"format": container.name, "sample_rate": sound.rate, "channels": sound.channels})


def _recognise(file: IO[bytes]) -> Container:
    """What the file is; it is rewound.

    Raises:
        _Refused: nothing that is read, or its header lies.
    """
    head = file.read(HEAD_BYTES)
    container = sniff(head)
    if container is None:
        raise _Refused("it is none of " + ", ".join(known.name for known in CONTAINERS) if head else "it is empty")
    if container.name == "flac":
        _check_format(*flac_format(head))
    if container.name == "wav" and (missing := missing_wav_bytes(file)):
        raise _Refused(f"it is cut off: {missing} bytes are promised that are not there")
    file.seek(0)
    return container


def _check_format(rate: int, channels: int) -> None:
    """Refuse what no recorder makes, before anything is decoded.

    Raises:
        _Refused: an absurd rate or number of channels.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise _Refused(f"its sample rate is {rate} Hz; allowed are {RATES[0]} to {RATES[1]}")
    if not 1 <= channels <= CHANNELS:
        raise _Refused(f"it has {channels} channels; allowed are 1 to {CHANNELS}")


class _Sound:
    """The first audio stream of an open file.

    Attributes:
        rate: in Hz, and
        channels: as they are in the file; known once samples have come.
    """

    def __init__(self, opened: InputContainer, container: Container, max_seconds: float) -> None:
        if not opened.streams.audio:
            raise _Refused("there is no sound in it")
        self._opened = opened
        self._stream = stream = opened.streams.audio[0]
        self._max_seconds = max_seconds
        stream.codec_context.thread_count = 1
        self.rate, self.channels = stream.codec_context.sample_rate, stream.codec_context.channels
        _check_format(self.rate, self.channels)
        promised = stream.duration if container.is_counted else None
        self._promised = float(promised * stream.time_base) if promised and stream.time_base else 0.0

    def resampled(self) -> Iterator[Samples]:
        """All samples, at the manifest's rate.

        Raises:
            _Refused: too long, too large, cut off, or of numbers that are none.
        """
        resampler = None
        for samples in self._decoded():
            if resampler is None:
                resampler = Resampler(self.rate, MANIFEST.sample_rate)
            yield resampler.feed(samples)
        if resampler is None:
            raise _Refused("there is no sound in it")
        yield resampler.finish()

    def _decoded(self) -> Iterator[Samples]:
        count = size = 0
        most = max(DECODED_BYTES, self._max_seconds * DECODED_BYTES_PER_SECOND)
        for frame in self._opened.decode(self._stream):
            claims = frame.sample_rate, len(frame.layout.channels)
            if not count:
                # AAC's headers may say half the rate that comes.
                self.rate, self.channels = claims
                _check_format(*claims)
            elif claims != (self.rate, self.channels):
                raise _Refused("its sample rate or number of channels changes on the way")
            count += frame.samples
            size += frame.samples * self.channels * frame.format.bytes
            if count > self._max_seconds * self.rate:
                raise _Refused(f"it is longer than {self._max_seconds:g} s")
            if size > most:
                raise _Refused(f"it has more than {most:.0f} bytes of samples")
            yield _mono(frame)
        if count < (self._promised - CUT_SECONDS) * self.rate:
            raise _Refused(f"it is cut off: {self._promised:.1f} s are promised, {count / self.rate:.1f} s are there")


def _mono(frame: av.AudioFrame) -> Samples:
    """The mean of a frame's channels within [-1, 1].

    Raises:
        _Refused: some are no numbers.
    """
    samples: np.ndarray[Any, Any] = frame.to_ndarray()
    channels = len(frame.layout.channels)
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    mixed: Samples = samples.mean(axis=0, dtype=np.float32)
    if not np.isfinite(mixed).all():
        raise _Refused("some of its samples are no numbers")
    return mixed


def _blocks(pieces: Iterator[Samples]) -> Iterator[Samples]:
    """The same samples in blocks of a second, the last one shorter."""
    second = MANIFEST.sample_rate
    waiting: list[Samples] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= second:
            joined = np.concatenate(waiting)
            whole = size - size % second
            yield from joined[:whole].reshape(-1, second)
            waiting, size = [joined[whole:]], size - whole
    if size:
        yield np.concatenate(waiting)
