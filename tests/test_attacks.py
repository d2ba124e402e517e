"""Rude input: a clear refusal, never a 500, and the server goes on."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager

import httpx
import pytest

from conftest import SENTENCE, Server, wait_until

JSON = {"content-type": "application/json"}


@pytest.fixture(autouse=True)
def _server_survives(server: Server) -> Iterator[None]:
    yield
    wait_until(lambda: server.busy() == 0)
    assert server.speak("Still here.", seed=1).status_code == 200


def speech(**fields: object) -> bytes:
    return json.dumps({"input": SENTENCE, "voice": "skylark", **fields}).encode()


def send(server: Server, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/audio/speech", content=body, headers=headers or JSON, timeout=60)


@pytest.mark.parametrize(
    "speed", [b'"1.5"', b"NaN", b"1e309", b"true", b"[]", b"0.2", b"-1", b"1" * 5000, b"Infinity", b'"NaN"']
)
def test_numbers_that_are_none(server: Server, speed: bytes) -> None:
    answer = send(server, b'{"input": "Hello.", "voice": "skylark", "speed": %s}' % speed)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "nothing"),
        (" \n\t ", "nothing"),
        ("...", "nothing"),
        ("[S1] [S2]", "nothing"),
        ("(laughs)", "nothing"),
        ("***", "nothing"),
        ("[S1] Hello. [S3] Hi.", "[S1] and [S2]"),
        ("Hello\x00there", "U+0000"),
        ("Hello\x1bthere", "U+001B"),
        ("a" * 4097, "4096"),
        ("Быстрая коричневая лиса", "en"),
        ("素早い茶色の狐", "en"),
    ],
)
def test_texts_that_nobody_can_speak(server: Server, text: str, words: str) -> None:
    answer = send(server, speech(input=text))
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"input": ' + b"[" * 50_000,
        b'{"input": "\\ud800", "voice": "skylark"}',
        b'\xef\xbb\xbf{"input": "Hello.", "voice": "skylark"}',
        '{"input": "Hello.", "voice": "skylark"}'.encode("utf-16"),
        b"\x1f\x8b\x08\x00",
        b"null",
        b'"text"',
        b"{}",
        b"",
        b'{"input": "Hello.", "voice": {}}',
        b'{"input": "Hello.", "voice": {"id": 3}}',
        b'{"input": "Hello.", "voice": "../skylark"}',
        b'{"input": "Hello.", "voice": "/etc/hostname"}',
        b'{"input": "Hello.", "voice": "sky\\u0000lark"}',
        b'{"input": "Hello.", "voice": "%s"}' % (b"v" * 1000),
    ],
)
def test_bodies_that_are_none(server: Server, body: bytes) -> None:
    answer = send(server, body)
    assert answer.status_code in (400, 404)
    assert answer.json()["detail"] == answer.json()["error"]["message"]


def test_large_bodies_are_refused_with_and_without_a_length(server: Server) -> None:
    huge = speech(input="a" * 1_000_000)
    assert send(server, huge).status_code == 413

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(huge), 65_536):
            yield huge[start : start + 65_536]

    answer = httpx.post(f"{server.url}/v1/audio/speech", content=pieces(), headers=JSON, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_what_is_no_http_is_told_so_in_the_envelope(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"HELLO there\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        found = json.loads(answer.read())
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert found["error"]["message"] == found["detail"] == "Invalid HTTP request received."


def test_a_long_head_in_one_read_is_refused(server: Server) -> None:
    answer = server.get("/health", headers={"X-Long": "x" * 100_000})
    assert answer.status_code == 400
    assert "larger than" in answer.json()["detail"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_json_must_say_that_it_is_json(server: Server, content_type: str) -> None:
    answer = send(server, speech(), {"content-type": content_type})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


def test_unknown_fields_and_duplicates_are_tolerated(server: Server) -> None:
    assert send(server, speech(language="en", params={}, anything={"at": ["all"]})).status_code == 200
    twice = b'{"input": "One.", "input": "Two.", "voice": "skylark"}'
    assert send(server, twice).status_code == 200


def test_texts_at_the_limit_and_full_of_marks_are_spoken(server: Server) -> None:
    assert send(server, speech(input=("word " * 820)[:4096], response_format="mp3")).status_code == 200
    zalgo = "Hello" + "\u0301" * 2000 + " world."
    assert send(server, speech(input=zalgo)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/audio/speech", 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/readyz", 404),
        ("GET", "/v1/test", 404),
        ("GET", "/v1/nothing/here", 404),
        ("GET", "/nothing", 404),
        ("GET", "/schema/assets/..%2f..%2fapp.py", 404),
        ("POST", "/health", 405),
        ("PUT", "/generate", 405),
    ],
)
def test_routes_that_are_none(server: Server, method: str, path: str, status: int) -> None:
    answer = httpx.request(method, server.url + path, timeout=10)
    assert answer.status_code == status
    body = answer.json()
    assert ("error" in body) == path.startswith("/v1/")
    assert body["detail"]


def test_clients_that_speak_no_http(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for words in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"A" * 100_000, b"GET / HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(words)
    assert server.get("/health").status_code == 200


def test_what_the_embedded_model_itself_would_stumble_over(server: Server) -> None:
    assert send(server, speech(input="Point ⑴ and ⑼ of [the list](/list/).")).status_code == 200


def exchange(server: Server, request: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        while data := connection.recv(65_536):
            answer += data
    return answer


def test_http_1_0_clients_get_no_chunks(server: Server) -> None:
    body = speech(response_format="pcm", seed=3)
    head = b"POST /v1/audio/speech HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer_head, _, audio = exchange(server, head + body).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(audio) in answer_head
    assert audio == send(server, body).content


def test_a_request_head_without_end_is_cut_off(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(100):
            connection.sendall(b"a" * 65_536)
        if not connection.recv(1):
            raise ConnectionError


def test_a_request_about_no_path(server: Server) -> None:
    answer = exchange(server, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("request_id", [b"a" * 60_000, b"a\tb", b"a\x0bb", b"\xff", b"with blanks", b""])
def test_request_ids_that_are_not_kept(server: Server, request_id: bytes) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-ID: " + request_id + b"\r\n\r\n"
    answer = exchange(server, request)
    # The parser refuses control characters by itself.
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 400 "))
    assert request_id == b"" or request_id not in answer


def test_compressed_bodies_are_not_inflated(server: Server) -> None:
    packed = gzip.compress(speech(input="a" * 100_000_000))
    assert len(packed) < 262_144
    answer = send(server, packed, JSON | {"content-encoding": "gzip"})
    assert answer.status_code == 400
    assert "not valid JSON" in answer.json()["error"]["message"]


def test_empty_bodies_are_named(server: Server) -> None:
    for path in ("/v1/audio/speech", "/generate"):
        answer = httpx.post(server.url + path, timeout=10)
        assert answer.status_code == 400
        assert answer.json()["detail"] == "The body is empty; send a JSON object"


def test_numbers_longer_than_the_embedded_model_counts(server: Server) -> None:
    assert send(server, speech(input="Call " + "1" * 60 + " now.")).status_code == 200


def aborted(server: Server) -> int:
    lines = server.get("/metrics").text.splitlines()
    return next((int(float(line.split()[1])) for line in lines if line.startswith('dia_streams_total{outcome="ab')), 0)


def one_waits(server: Server) -> bool:
    return "dia_clips_waiting 1.0\n" in server.get("/metrics").text


def waiting_client(server: Server, **fields: object) -> AbstractContextManager[None]:
    return server.waiting_client(
        "/v1/audio/speech", {"input": SENTENCE * 20, "voice": "slow", "model": "noise", **fields}
    )


@pytest.mark.parametrize("fields", [{"response_format": "wav"}, {"response_format": "wav", "stream": True}])
def test_who_hangs_up_before_the_end_frees_the_slot(server: Server, fields: dict[str, object]) -> None:
    before = aborted(server)
    with waiting_client(server, **fields):
        wait_until(lambda: server.busy() == 1)
    wait_until(lambda: server.busy() == 0 and aborted(server) == before + 1)


def test_who_hangs_up_in_the_queue_leaves_it(server: Server) -> None:
    before = aborted(server)
    with waiting_client(server), waiting_client(server):
        wait_until(lambda: server.busy() == 2)
        with waiting_client(server):
            wait_until(lambda: one_waits(server))
        wait_until(lambda: aborted(server) == before + 1)
        assert server.busy() == 2
    wait_until(lambda: aborted(server) == before + 3)
