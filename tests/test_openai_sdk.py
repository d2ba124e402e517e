"""OpenAI's own Python client, unmodified, against a running server."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

import sound
from conftest import NOISE, SENTENCE, Server, make_home, running_server

# A second and a half in the slow voice.
SHORT = "The quick brown fox jumps."
TEXT = f"{SENTENCE} [S2] And then it sleeps."


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def wav(client: openai.OpenAI) -> bytes:
    return client.audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format="wav", extra_body={"seed": 7}
    ).content


@pytest.mark.parametrize("audio_format", sound.FORMATS)
def test_every_format_holds_the_same_speech(client: openai.OpenAI, wav: bytes, audio_format: str) -> None:
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=TEXT, response_format=audio_format, extra_body={"seed": 7}
    )
    expected = sound.seconds(wav, "wav")
    assert expected > 3
    # mp3, aac and opus pad the last frame and may keep the encoder's delay: less than a tenth of a second together.
    assert sound.seconds(answer.content, audio_format) == pytest.approx(expected, abs=0.1)
    samples, _ = sound.decode(answer.content, audio_format)
    reference, _ = sound.decode(wav, "wav")
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(np.sqrt(np.mean(reference**2)), rel=0.1)


def test_default_format_is_mp3_for_openais_models_and_wav_for_dia(client: openai.OpenAI) -> None:
    mp3 = client.audio.speech.create(model="gpt-4o-mini-tts", voice="nova", input="Hi there.")
    assert mp3.response.headers["content-type"] == "audio/mpeg"
    assert mp3.content[:1] == b"\xff"
    dia = client.audio.speech.create(model="dia", voice="nova", input="Hi there.")
    assert dia.response.headers["content-type"] == "audio/wav"
    assert int(dia.response.headers["content-length"]) == len(dia.content)
    with wave.open(io.BytesIO(dia.content)) as file:
        assert file.getnframes() * 2 == len(dia.content) - 44
        assert float(dia.response.headers["x-audio-duration"]) == pytest.approx(file.getnframes() / 24_000, abs=0.001)


def test_streaming_gives_the_same_bytes_in_pieces(client: openai.OpenAI, tmp_path: Path) -> None:
    fields = {"model": "tts-1", "voice": "alloy", "input": TEXT, "extra_body": {"seed": 7}}
    whole = client.audio.speech.create(**fields).content
    with client.audio.speech.with_streaming_response.create(**fields) as answer:
        pieces = list(answer.iter_bytes(chunk_size=512))
    assert len(pieces) > 3
    assert b"".join(pieces) == whole
    with client.audio.speech.with_streaming_response.create(**fields) as answer:
        answer.stream_to_file(tmp_path / "speech.mp3")
    assert (tmp_path / "speech.mp3").read_bytes() == whole


def test_streamed_wav_opens_at_once_and_holds_the_same_samples(client: openai.OpenAI, wav: bytes) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=TEXT, response_format="wav", stream_format="audio", extra_body={"seed": 7}
    ) as answer:
        streamed = answer.read()
        assert "content-length" not in answer.headers
    assert streamed[4:8] == streamed[40:44] == b"\xff\xff\xff\xff"
    assert streamed[44:] == wav[44:]


def test_async_client(server: Server, wav: bytes) -> None:
    async def three() -> list[bytes]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            answers = await asyncio.gather(
                *(
                    client.audio.speech.create(
                        model="tts-1", voice="alloy", input=TEXT, response_format="wav", extra_body={"seed": 7}
                    )
                    for _ in range(3)
                )
            )
            return [answer.content for answer in answers]

    assert asyncio.run(three()) == [wav] * 3


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["dia", "hibari", "index-tts2", "noise", "voxcpm"]
    assert client.models.retrieve("hibari").owned_by == "dia-server"
    assert client.models.retrieve("tts-1").id == "tts-1"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_voice_objects_and_blanks_around_names(client: openai.OpenAI, wav: bytes) -> None:
    for voice in ({"id": "raven"}, " alloy "):
        answer = client.audio.speech.create(
            model="tts-1", voice=voice, input=TEXT, response_format="wav", extra_body={"seed": 7}
        )
        assert answer.content == wav


@pytest.mark.parametrize(
    ("fields", "error", "param", "code"),
    [
        ({"input": ""}, openai.BadRequestError, "input", "nothing_to_speak"),
        ({"voice": "nobody"}, openai.NotFoundError, "voice", "voice_not_found"),
        ({"speed": 5.0}, openai.BadRequestError, "speed", "invalid_value"),
        ({"response_format": "ogg"}, openai.BadRequestError, "response_format", "invalid_value"),
        ({"input": "a" * 4097}, openai.BadRequestError, "input", "invalid_value"),
        ({"extra_body": {"seed": -2}}, openai.BadRequestError, "seed", "invalid_value"),
        ({"extra_body": {"temperature": 3}}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"extra_body": {"params": {"seed": "7"}}}, openai.BadRequestError, "params.seed", "invalid_value"),
        (
            {"extra_body": {"timestamp_granularities": ["word"]}},
            openai.BadRequestError,
            "timestamp_granularities",
            "invalid_value",
        ),
    ],
)
def test_errors_are_the_clients_own_classes(
    client: openai.OpenAI, fields: dict[str, object], error: type[openai.APIStatusError], param: str, code: str
) -> None:
    with pytest.raises(error) as caught:
        client.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": "Hello.", **fields})
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in str(caught.value) or code != "invalid_value" or "4096" in str(caught.value)
    assert caught.value.response.json()["detail"] == caught.value.body["message"]


def test_a_full_queue_is_retried_by_the_client(tmp_path: Path) -> None:
    home = make_home(tmp_path, NOISE | {"max_queue": 1})
    with running_server(home) as small:
        small.wait_until_ready()

        async def flood() -> list[object]:
            async with openai.AsyncOpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0) as client:
                return await asyncio.gather(
                    *(client.audio.speech.create(model="noise", voice="slow", input=SHORT) for _ in range(6)),
                    return_exceptions=True,
                )

        refused = [answer for answer in asyncio.run(flood()) if isinstance(answer, openai.InternalServerError)]
        assert len(refused) == 4
        assert {error.status_code for error in refused} == {503}
        assert {error.code for error in refused} == {"queue_full"}
        assert all(int(error.response.headers["retry-after"]) >= 1 for error in refused)

        patient = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=9)
        with openai.OpenAI(base_url=f"{small.url}/v1", api_key="none").audio.speech.with_streaming_response.create(
            model="noise", voice="slow", input=SHORT
        ):
            assert patient.audio.speech.create(model="noise", voice="slow", input="Hi there.").content
