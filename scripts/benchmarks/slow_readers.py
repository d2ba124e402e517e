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
    SIXTY_WORDS,
    SPEECH,
    TEN_WORDS,
    Client,
    Note,
    goal,
    lanes,
    listen,
    mb,
    median_seconds,
    ms,
    running_server,
    speech,
    table,
)
from dia_server.bench import percentile

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
    probe, segment = speech(TEN_WORDS, "wav"), speech(SIXTY_WORDS.split(". ")[-1], "wav")
    with running_server(lanes("hibari", processes=2)) as server:
        process = psutil.Process(server.pid)
        note("alone")
        segment_seconds = median_seconds(lambda: listen(server.port, segment), 9)
        alone = first_bytes(server.port, probe)
        memory = process.memory_info().rss
        note(f"with {STREAMS} slow readers")
        with slow_readers(server.port):
            time.sleep(SETTLE_SECONDS)
            among = first_bytes(server.port, probe)
            grown = process.memory_info().rss
    rows = [
        ["alone", ms(statistics.median(alone)), ms(percentile(alone, 0.99)), mb(memory)],
        [f"{STREAMS} slow streams", ms(statistics.median(among)), ms(percentile(among, 0.99)), mb(grown)],
    ]
    moved = statistics.median(among) - statistics.median(alone)
    text = f"the first byte moves by less than one segment's time (here {ms(segment_seconds)}, a sentence)"
    head = ["Other listeners", "First byte, p50", "p99", "RSS of the HTTP process"]
    return f"{table(head, rows)}\n\n{goal(text, ms(moved), met=moved < segment_seconds)}"


def first_bytes(port: int, body: bytes) -> list[float]:
    """Seconds until the first audio, of many requests over one connection."""
    client = Client(port)
    seconds = [client.first_byte(body) for _ in range(REQUESTS + 1)][1:]
    client.close()
    return seconds


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
