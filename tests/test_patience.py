"""Clients that send or read too slowly lose their connection; patient ones keep it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import SENTENCE, Server, make_home, running_server, wait_until

SECONDS = 1.0
HEAD = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {
        "request_timeout": SECONDS,
        "upload_timeout": 3 * SECONDS,
        "write_timeout": SECONDS,
        "engine": "noise",
        "lanes": {"speech": {"models": ["noise"], "processes": 1}},
    }
    with running_server(make_home(tmp_path_factory.mktemp("hasty"), settings)) as server:
        server.wait_until_ready()
        yield server
        assert '"level":"error"' not in server.log()


def connect(server: Server, receive_buffer: int | None = None) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(20)
    connection.connect((host, int(port)))
    return connection


def at_once(call: Callable[[bytes], None], what: Collection[bytes]) -> None:
    """Call it for each at the same time, since each waits for the clock."""
    with ThreadPoolExecutor(len(what)) as threads:
        list(threads.map(call, what))


def read_to_the_end(connection: socket.socket) -> bytes:
    answer = b""
    while data := connection.recv(65_536):
        answer += data
    return answer


def request(voice: str, text: str = SENTENCE, tail: bytes = b"") -> bytes:
    body = json.dumps({"input": text, "voice": voice, "stream": True, "seed": 1}).encode()
    return HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body + tail)


LATE = {
    b"": b"",
    b"\r\n\r\n": b"HTTP/1.1 408 ",
    HEAD: b"HTTP/1.1 408 ",
    HEAD + b"Content-Length: 100\r\n\r\n{": b"HTTP/1.1 408 ",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n": b"HTTP/1.1 408 ",
}


def test_requests_that_do_not_arrive_are_not_waited_for(hasty: Server) -> None:
    def late(sent: bytes) -> None:
        started = time.monotonic()
        with connect(hasty) as connection:
            connection.sendall(sent)
            found = read_to_the_end(connection)
        assert found.startswith(LATE[sent]), sent
        assert bool(found) == bool(LATE[sent]), sent
        assert time.monotonic() - started > SECONDS * 0.9, sent

    at_once(late, LATE)


def test_dripping_does_not_help(hasty: Server) -> None:
    def drip(start: bytes) -> None:
        started = time.monotonic()
        with connect(hasty) as connection, pytest.raises(ConnectionError):
            connection.sendall(start)
            while time.monotonic() - started < 10:
                connection.sendall(b"\r\n" if start == b"\r\n" else b"x")
                time.sleep(0.1)

    at_once(drip, [HEAD + b"X: ", HEAD + b"Content-Length: 9999\r\n\r\n", b"\r\n"])


def test_an_upload_has_more_time_than_other_requests_but_not_all(hasty: Server) -> None:
    head = b"POST /audio_prompts/upload HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 7\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    with connect(hasty) as slow, connect(hasty) as slower:
        for connection in (slow, slower):
            connection.sendall(head + b"--b")
        started = time.monotonic()
        time.sleep(1.3 * SECONDS)
        slow.sendall(b"--\r\n")
        assert read_to_the_end(slow).startswith(b"HTTP/1.1 400 ")
        answer = read_to_the_end(slower)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 3 s" in answer
    assert time.monotonic() - started > 2.9 * SECONDS


def test_an_answer_may_take_longer_than_its_request(hasty: Server) -> None:
    started = time.monotonic()
    with connect(hasty) as connection:
        # Browsers of old send a line break behind the body.
        connection.sendall(request("slow", SENTENCE))
        time.sleep(0.2)
        connection.sendall(b"\r\n")
        answer = read_to_the_end(connection)
    assert time.monotonic() - started > SECONDS * 1.5
    assert answer.endswith(b"\r\n0\r\n\r\n")


def test_a_connection_is_kept_for_the_next_request(hasty: Server) -> None:
    with connect(hasty) as connection:
        for pause in (0.0, 1.3, 1.3):
            time.sleep(SECONDS * pause)
            connection.sendall(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def aborted(server: Server) -> int:
    lines = server.get("/metrics").text.splitlines()
    return next((int(float(line.split()[1])) for line in lines if line.startswith('dia_streams_total{outcome="ab')), 0)


def test_a_reader_who_stops_loses_the_connection_and_a_slow_one_does_not(hasty: Server) -> None:
    before = aborted(hasty)
    with connect(hasty, 4096) as stopped, connect(hasty) as slow:
        for connection in (stopped, slow):
            connection.sendall(request("static", SENTENCE * 90))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        deadline = time.monotonic() + 4 * SECONDS
        while time.monotonic() < deadline:
            slow.recv(262_144)
            time.sleep(0.1)
        wait_until(lambda: aborted(hasty) == before + 1)
        # What the kernel had taken may still be read.
        assert not read_to_the_end(stopped).endswith(b"\r\n0\r\n\r\n")
        assert read_to_the_end(slow).endswith(b"\r\n0\r\n\r\n")
    assert aborted(hasty) == before + 1
    assert hasty.busy() == 0


def test_who_leaves_before_the_request_is_there_is_told_apart_from_a_bug(hasty: Server) -> None:
    with connect(hasty) as connection:
        connection.sendall(HEAD + b"X-Request-ID: left\r\nContent-Length: 100\r\n\r\n{")
    wait_until(lambda: '"generation_id":"left"' in hasty.log())
    (line,) = [line for line in hasty.log().splitlines() if '"generation_id":"left"' in line]
    assert json.loads(line)["status"] == 499
