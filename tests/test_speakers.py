"""Two speakers of a dialogue, through OpenAI's own client: heard by Whisper, told apart by Resemblyzer."""

from __future__ import annotations

import io
import wave

import jiwer
import numpy as np
import openai
import pytest

from benchmarks import speakers
from benchmarks.hearing import Listener, read_wav, words_of
from benchmarks.peers import find_environment
from conftest import STARTERS, Server

TURNS = (
    "Good morning! Did you hear the storm last night? It shook every window in the house, and nobody could sleep.",
    "I slept through all of it. But when I opened the door this morning, the old tree was lying across the road.",
    "That is sad news. My grandfather planted that tree, and the children used to climb it on the way from school.",
    "Then let us plant another. I know a farmer in the valley who sells young trees, and the price is always fair.",
)
PAUSE_SECONDS = 1.0
SHORTEST_PAUSE = 0.9
SILENCE = 1e-4
WORST_ERROR_RATE = 0.02


@pytest.fixture(scope="module")
def dialogues(server: Server) -> dict[str, list[bytes]]:
    """By voice, the turns of the dialogue as wav files, cut apart at the pauses that the text asks for."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    lines = [f"[S{1 + number % 2}] {turn}" for number, turn in enumerate(TURNS)]
    text = f" [pause:{PAUSE_SECONDS:g}s] ".join(lines)

    def say(voice: str) -> bytes:
        return client.audio.speech.create(
            model="tts-1", voice=voice, input=text, response_format="wav", extra_body={"seed": 7}
        ).content

    return {voice: cut_at_pauses(say(voice)) for voice in STARTERS}


def cut_at_pauses(wav: bytes) -> list[bytes]:
    samples, rate = read_wav(wav)
    loud = np.flatnonzero(np.abs(samples) > SILENCE)
    gaps = np.flatnonzero(np.diff(loud) > SHORTEST_PAUSE * rate)
    starts, ends = [loud[0], *loud[gaps + 1]], [*loud[gaps], loud[-1]]
    return [wav_of(samples[start : end + 1], rate) for start, end in zip(starts, ends, strict=True)]


def wav_of(samples: np.ndarray, rate: int) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return data.getvalue()


def test_every_turn_is_said_once_and_understood(dialogues: dict[str, list[bytes]]) -> None:
    assert {voice: len(turns) for voice, turns in dialogues.items()} == dict.fromkeys(STARTERS, len(TURNS))
    heard = [" ".join(words) for words in Listener().words_of_each(dialogues["skylark"])]
    assert jiwer.wer([" ".join(words_of(turn)) for turn in TURNS], heard) <= WORST_ERROR_RATE


def test_the_two_speakers_are_different_people_in_every_voice(dialogues: dict[str, list[bytes]]) -> None:
    tools = find_environment(speakers.NAME, speakers.PACKAGES)
    if tools is None:
        pytest.skip("the environment with Resemblyzer is missing; it is made by `make bench ARGS=voices`")
    clips = [turn for turns in dialogues.values() for turn in turns]
    embeddings = speakers.embed(tools, clips).reshape(len(STARTERS), len(TURNS), -1)
    speaker = np.arange(len(TURNS)) % 2
    same, other = speaker[:, None] == speaker, speaker[:, None] != speaker
    for voice, turns in zip(STARTERS, embeddings, strict=True):
        likeness = turns @ turns.T
        assert likeness[same].min() > likeness[other].max(), voice
