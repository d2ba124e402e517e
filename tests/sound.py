"""What a listener does with the bytes: decode them, and compare the words."""

from __future__ import annotations

import io
import re

import av
import jiwer
import numpy as np

RAW_RATE = 24_000
FORMATS = ("wav", "mp3", "opus", "aac", "flac", "pcm")


def decode(data: bytes, audio_format: str) -> tuple[np.ndarray, int]:
    """Mono float32 samples and their rate."""
    if audio_format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768, RAW_RATE
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
        frames = [out for frame in container.decode(stream) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames]), stream.rate


def seconds(data: bytes, audio_format: str) -> float:
    """Length of the decoded audio."""
    samples, rate = decode(data, audio_format)
    return len(samples) / rate


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def mistakes(said: str, heard: str) -> float:
    """Word error rate."""
    return float(jiwer.wer(words(said), words(heard)))
