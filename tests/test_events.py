"""Speech as server-sent events."""

from __future__ import annotations

import asyncio
import json
import socket
from base64 import b64decode
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

import sound
from conftest import SENTENCE, Server, wait_until
from dia_server.api import events
from dia_server.models import registry

TEXT = f"{SENTENCE} [S2] And then it sleeps in a café."


def parse(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream, by the rules that browsers read it by; comments are left out."""
    blocks = text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if not block.startswith(":")]


def audio_of(found: list[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(event["audio"]) for event in found if event["type"] == "speech.audio.delta")


@pytest.mark.parametrize("audio_format", sound.FORMATS)
def test_deltas_are_the_streamed_clip(server: Server, audio_format: str) -> None:
    answer = server.speak(TEXT, seed=7, stream_format="sse", response_format=audio_format)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-seed"] == "7"
    assert "content-disposition" not in answer.headers
    found = parse(answer.text)
    assert [event["type"] for event in found[:-1]] == ["speech.audio.delta"] * (len(found) - 1)
    assert audio_of(found) == server.speak(TEXT, seed=7, stream=True, response_format=audio_format).content
    assert found[-1]["type"] == "speech.audio.done"
    usage = found[-1]["usage"]
    assert usage["input_tokens"] == len(TEXT.encode())
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] >= 1


def test_the_count_of_frames_is_the_length_of_the_clip(server: Server) -> None:
    found = parse(server.speak(TEXT, seed=7, stream_format="sse", response_format="pcm").text)
    samples = len(audio_of(found)) // 2
    hop = registry.manifest("hibari").hop_length
    assert found[-1]["usage"]["output_tokens"] == -(-samples // hop)


def test_words_are_told_before_they_are_heard(server: Server) -> None:
    answer = server.speak(TEXT, seed=7, stream_format="sse", response_format="pcm", timestamp_granularities=["word"])
    words: list[dict[str, Any]] = []
    heard = 0.0
    for event in parse(answer.text):
        if event["type"] == "speech.audio.words":
            assert all(word["start"] >= heard - 0.001 for word in event["words"])
            words += event["words"]
        elif event["type"] == "speech.audio.delta":
            heard += len(b64decode(event["audio"])) / 48_000
    assert " ".join(word["word"] for word in words) == TEXT.replace("[S2] ", "")
    assert [word["start"] for word in words] == sorted(word["start"] for word in words)
    assert all(word["start"] < word["end"] <= heard for word in words)


def test_a_model_that_knows_no_words_names_what_it_cannot_tell(server: Server) -> None:
    wanted = {"stream_format": "sse", "response_format": "pcm", "timestamp_granularities": ["word"]}
    answer = server.speak("Hello.", "static", model="noise", **wanted)
    assert answer.headers["x-unused-parameters"] == "timestamp_granularities"
    assert parse(answer.text)[-1]["type"] == "speech.audio.done"
    assert "x-unused-parameters" not in server.speak("Hello.", seed=7, **wanted).headers


@pytest.mark.parametrize(("audio_format", "delay"), [("mp3", 1105 / 24_000), ("aac", 1024 / 24_000), ("opus", 0)])
def test_words_are_heard_late_by_the_delay_of_the_format(server: Server, audio_format: str, delay: float) -> None:
    def starts(audio_format: str) -> list[float]:
        options = {"stream_format": "sse", "response_format": audio_format, "timestamp_granularities": ["word"]}
        events = parse(server.speak(TEXT, seed=7, **options).text)
        return [word["start"] for event in events if event["type"] == "speech.audio.words" for word in event["words"]]

    assert starts(audio_format) == pytest.approx([start + delay for start in starts("pcm")], abs=0.002)


def test_http_1_0_clients_get_all_events_at_once(server: Server) -> None:
    body = json.dumps({"input": SENTENCE, "voice": "skylark", "seed": 7, "stream_format": "sse"}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /v1/audio/speech HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    answer = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head % len(body) + body)
        while data := connection.recv(65_536):
            answer += data
    head, _, text = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(text) in head
    assert parse(text.decode())[-1]["type"] == "speech.audio.done"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"voice": "nobody"}, 404, "voice"),
        ({"text": "..."}, 400, "input"),
        ({"timestamp_granularities": ["segment"]}, 400, "timestamp_granularities[0]"),
        ({"stream_format": "audio", "timestamp_granularities": ["word"]}, 400, "timestamp_granularities"),
    ],
)
def test_what_fails_before_the_first_event_has_its_status(
    server: Server, fields: dict[str, Any], status: int, param: str
) -> None:
    answer = server.speak(**{"stream_format": "sse", **fields})
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_a_listener_who_leaves_frees_the_slot(server: Server) -> None:
    def aborted() -> int:
        lines = server.get("/metrics").text.splitlines()
        return next(
            (int(float(line.split()[1])) for line in lines if 'dia_streams_total{outcome="aborted"}' in line), 0
        )

    before = aborted()
    body = {"input": SENTENCE * 9, "voice": "slow", "model": "noise", "stream_format": "sse"}
    with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=30) as answer:
        # Without a name it would be closed at once, and the connection with it.
        pieces = answer.iter_raw()
        next(pieces)
        wait_until(lambda: server.busy() > 0)
    wait_until(lambda: server.busy() == 0 and aborted() == before + 1)


async def test_pings_fill_long_pauses_but_come_after_the_first_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.05)
    closed, pings = asyncio.Event(), asyncio.Semaphore(0)
    heard: list[bytes | None] = []

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            # Longer than the first ping would take.
            await asyncio.sleep(0.13)
            yield b"0"
            for chunk in (b"1", b"2"):
                for _ in range(2):
                    await pings.acquire()
                yield chunk
        finally:
            closed.set()

    async with asyncio.timeout(60):
        async for chunk in events.with_pings(chunks()):
            heard.append(chunk)
            if chunk is None:
                pings.release()
    assert heard[0] == b"0"
    assert [chunk for chunk in heard if chunk is not None] == [b"0", b"1", b"2"]
    assert closed.is_set()


async def test_closing_between_pings_closes_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PING_SECONDS", 0.01)
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"0"
            await asyncio.sleep(1000)
        finally:
            closed.set()

    pings = events.with_pings(chunks())
    assert [await anext(pings), await anext(pings)] == [b"0", None]
    await pings.aclose()
    assert closed.is_set()


def test_instructions_leave_what_was_understood_in_the_log(server: Server) -> None:
    answer = server.speak(instructions="Speak slowly, dear purple walrus.")
    # The line is written when the answer is over.
    wait_until(lambda: answer.headers["x-request-id"] in server.log())
    line = next(json.loads(line) for line in server.log().splitlines() if answer.headers["x-request-id"] in line)
    assert line["understood"]
    assert "walrus" not in server.log()
