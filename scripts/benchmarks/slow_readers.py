"""Whether listeners who hardly read get in the way of others."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.common import (
    HOST,
    LONG_TEXT,
    SPEECH,
    TEN_WORDS,
    Client,
    Note,
    goal,
    lanes,
    mb,
    ms,
    percentile,
    running_server,
    speech,
    table,
)

TITLE = "Slow readers"
MEASURED = (
    "The first byte of another listener's streamed wav (hibari, 10 words, two workers), without and with 30 streams of "
    "4 minutes of speech each that are read at 1 kB/s, and the memory of the HTTP process."
)

STREAMS = 30
BYTES_PER_SECOND = 1000
REQUESTS = 60
SETTLE_SECONDS = 15.0


def run(note: Note) -> str:
    """Measure."""
    probe, segment = speech(TEN_WORDS, "wav"), speech(LONG_TEXT[:240], "wav")
    with running_server(lanes("hibari", processes=2)) as server:
        client, process = Client(server.port), psutil.Process(server.pid)
        client.first_byte(probe)
        note("alone")
        segment_seconds = statistics.median(whole_answer(client, segment) for _ in range(9))
        alone = [client.first_byte(probe) for _ in range(REQUESTS)]
        memory = process.memory_info().rss
        note(f"with {STREAMS} slow readers")
        with slow_readers(server.port):
            time.sleep(SETTLE_SECONDS)
            among = [client.first_byte(probe) for _ in range(REQUESTS)]
            grown = process.memory_info().rss
        client.close()
    rows = [
        ["alone", ms(statistics.median(alone)), ms(percentile(alone, 0.99)), mb(memory)],
        [f"{STREAMS} slow streams", ms(statistics.median(among)), ms(percentile(among, 0.99)), mb(grown)],
    ]
    moved = statistics.median(among) - statistics.median(alone)
    text = f"the first byte moves by less than one segment's time ({ms(segment_seconds)} for 240 characters)"
    head = ["Other listeners", "First byte, p50", "p99", "RSS of the HTTP process"]
    return f"{table(head, rows)}\n\n{goal(text, ms(moved), met=moved < segment_seconds)}"


def whole_answer(client: Client, body: bytes) -> float:
    """Seconds until the last byte."""
    started = time.perf_counter()
    for _ in client.speak(body):
        pass
    return time.perf_counter() - started


@contextmanager
def slow_readers(port: int) -> Iterator[None]:
    """Streams that are read a little, once a second."""
    sockets = [slow_stream(port) for _ in range(STREAMS)]
    stopping = threading.Event()

    def read() -> None:
        while not stopping.wait(1):
            for stream in sockets:
                stream.recv(BYTES_PER_SECOND)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        for stream in sockets:
            stream.close()


def slow_stream(port: int) -> socket.socket:
    """A request for much audio, over a connection with little room."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream.settimeout(60)
    stream.connect((HOST, port))
    body = speech(LONG_TEXT, "wav")
    head = f"POST {SPEECH} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    stream.sendall(head.encode() + body)
    return stream
