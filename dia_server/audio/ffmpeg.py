"""The compressed formats, made by FFmpeg's libraries within the process."""

from __future__ import annotations

import io
import weakref
from fractions import Fraction
from typing import Literal

import av
import msgspec
import numpy as np
from numpy.typing import NDArray

from dia_server.audio.samples import Samples, to_int16

# Where FLAC's first block holds the number of samples: the low 36 bits of these bytes, 0 for unknown.
FLAC_TOTAL = slice(18, 26)


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How FFmpeg makes a format; names, options and their units are FFmpeg's.

    Attributes:
        bit_rate: in bits per second; 0 for a lossless codec.
    """

    container: str
    codec: Literal["libmp3lame", "libopus", "aac", "flac"]
    sample_format: Literal["s16", "s16p", "fltp"]
    bit_rate: int = 0
    codec_options: dict[str, str] = {}
    container_options: dict[str, str] = {}


class _Sink:
    """Where the muxer writes; it has no `seek`, so that nothing already sent is ever to be changed."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(data)
        return len(data)

    def take(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken


class FFmpegEncoder:
    """Encodes one clip; an `Encoder`."""

    def __init__(self, recipe: Recipe, sample_rate: int) -> None:
        """`sample_rate` in Hz, one that the codec takes."""
        self._sample_format = recipe.sample_format
        self._sample_rate = sample_rate
        self._time_base = Fraction(1, sample_rate)
        self._sink = _Sink()
        # bitexact leaves out version strings and random serial numbers.
        self._container = av.open(
            self._sink,
            "w",
            format=recipe.container,
            container_options={"fflags": "+bitexact", "flush_packets": "1"} | recipe.container_options,
        )
        # A clip that nobody hears to its end is dropped here and there; FFmpeg would keep 10 kB of each for ever.
        weakref.finalize(self, self._container.close).atexit = False
        stream = self._container.add_stream(
            recipe.codec,
            rate=sample_rate,
            options={"flags": "+bitexact"} | recipe.codec_options,
            layout="mono",
            format=recipe.sample_format,
            bit_rate=recipe.bit_rate,
        )
        self._codec = stream.codec_context
        # The header goes out with the first packet, so that of no samples comes no file.
        self._codec.open()
        self._waiting = np.zeros(0, np.int16)
        self._position = 0

    def encode(self, samples: Samples) -> bytes:
        self._waiting = np.concatenate([self._waiting, to_int16(samples)])
        size = self._codec.frame_size
        while len(self._waiting) >= size:
            self._encode_frame(self._waiting[:size])
            self._waiting = self._waiting[size:]
        return self._sink.take()

    def finish(self) -> bytes:
        if len(self._waiting):
            self._encode_frame(self._waiting)
        if self._position:
            self._send(None)
            self._container.close()
        return self._sink.take()

    def _encode_frame(self, samples: NDArray[np.int16]) -> None:
        array = samples / np.float32(32768) if self._sample_format == "fltp" else samples
        frame = av.AudioFrame.from_ndarray(array[np.newaxis], format=self._sample_format, layout="mono")
        frame.sample_rate = self._sample_rate
        frame.time_base = self._time_base
        frame.pts = self._position
        self._position += len(samples)
        self._send(frame)

    def _send(self, frame: av.AudioFrame | None) -> None:
        # Not the public `encode`: it puts a filter graph before the codec, which starts a thread per processor.
        for packet in self._codec._send_frame_and_recv(frame):  # type: ignore[attr-defined] # noqa: SLF001
            packet.time_base = self._time_base
            self._container.mux_one(packet)


def whole_flac(stream: bytes) -> bytes:
    """A complete streamed FLAC file with the number of samples filled in: libsndfile reads none without it."""
    if not stream:
        return stream
    with av.open(io.BytesIO(stream), "r") as container:
        samples = sum(packet.duration or 0 for packet in container.demux(audio=0))
    total = int.from_bytes(stream[FLAC_TOTAL], "big") | samples
    return stream[: FLAC_TOTAL.start] + total.to_bytes(8, "big") + stream[FLAC_TOTAL.stop :]
