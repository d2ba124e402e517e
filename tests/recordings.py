"""Recordings in the formats that people upload, made with FFmpeg's libraries."""

from __future__ import annotations

import io

import av
import numpy as np

from dia_server.audio.wav import write_wav

RATE = 44_100
# A wav file with a chunk that would be longer than the file.
LYING = b"RIFF\x70\x00\x00\x00WAVELIST\xff\xff\xff\xff" + bytes(100)


def voice_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables: like speech in its level and its rests; mono float32 at `RATE`."""
    count = round(seconds * RATE)
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE)
    noise = np.random.default_rng(seed).standard_normal(count)
    return np.clip(noise * syllables * 0.1, -0.9, 0.9).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    file = io.BytesIO()
    write_wav(file, samples, rate)
    return file.getvalue()


def encoded(
    container: str, codec: str, samples: np.ndarray, *, rate: int = RATE, layout: str = "mono", **options: str
) -> bytes:
    """A file of any kind; the samples sound on all channels."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout, options=options)
        channels = len(stream.codec_context.layout.channels)
        pcm = np.repeat((samples * 32767).astype(np.int16), channels)
        frame = av.AudioFrame.from_ndarray(pcm[np.newaxis], format="s16", layout=layout)
        frame.sample_rate = rate
        for sent in (frame, None):
            output.mux(stream.encode(sent))
    return file.getvalue()


def silent_film() -> bytes:
    """Two seconds of black, without sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(20):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        output.mux(stream.encode(None))
    return file.getvalue()
