"""Files that mean harm: each is refused in words, nothing of it stays, and the server lives."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import NOISE, Server, make_home, running_server, wait_until
from contract import configured
from recordings import encoded, voice_like, wav
from test_decoder import refusals
from test_prompts import kept, upload

MOST_MEMORY = 200_000_000
VOICE = voice_like(3)


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("victim"), NOISE | {"crash_loop_deaths": 1000})) as server:
        server.wait_until_ready()
        upload(server, "warm", wav(VOICE)).raise_for_status()
        httpx.delete(f"{server.url}/audio_prompts/warm").raise_for_status()
        yield server


@pytest.fixture(autouse=True)
def _nothing_stays(victim: Server) -> Iterator[None]:
    before = memory(victim)
    yield
    assert kept(victim) == []
    assert victim.get("/audio_prompts").json() == {}
    assert memory(victim) < before + MOST_MEMORY
    assert victim.get("/health").status_code == 200


def memory(server: Server) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


@pytest.mark.parametrize("name", list(refusals()))
def test_what_the_decoder_refuses_is_a_400(victim: Server, name: str) -> None:
    data, words = refusals()[name]
    answer = upload(victim, "bad", data)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("Failed to process audio file: ")
    assert words in answer.json()["detail"]


def test_an_hour_of_silence(victim: Server) -> None:
    hour = encoded("flac", "flac", np.zeros(3_600 * 8_000, np.float32), rate=8_000)
    answer = upload(victim, "hour", hour)
    assert (answer.status_code, "longer than 60 s" in answer.json()["detail"]) == (400, True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds processes to these limits")
def test_the_decoder_is_held_to_limits_and_replaced_when_it_dies(victim: Server) -> None:
    assert upload(victim, "bad", b"").status_code == 400
    (pid,) = [worker["pid"] for worker in victim.workers() if worker["lane"] == "decode"]
    process = psutil.Process(pid)
    assert process.rlimit(psutil.RLIMIT_AS)[0] < 3e9
    assert process.rlimit(psutil.RLIMIT_CPU)[0] < 120
    process.kill()
    assert upload(victim, "again", wav(VOICE)).status_code == 200
    httpx.delete(f"{victim.url}/audio_prompts/again").raise_for_status()


def test_lists_open_neither_files_nor_addresses(victim: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(VOICE))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.wav"
        for target in (str(secret), f"file://{secret}", address):
            for text in (
                f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 1 RTP/AVP 0\na={target}\n",
                f'<?xml version="1.0"?><svg><image href="{target}"/></svg>',
                f"<MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
            ):
                for name in ("list.wav", "list.m3u8"):
                    assert upload(victim, "list", text.encode(), name=name).status_code == 400
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize(
    "prompt_id",
    ["../up", "..%2fup", "/etc/passwd", "a/b", "a\x00b", "", " ", "a" * 65, ".hidden", "-x", "a\nb", "a..b", "ä",
     "metadata", "upload", "discover"],
)  # fmt: skip
def test_ids_that_are_none(victim: Server, prompt_id: str) -> None:
    answer = upload(victim, prompt_id, wav(VOICE))
    assert answer.status_code == 400
    assert "prompt_id" in answer.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/audio_prompts/..%2f..%2fconfig.yaml/audio", "/audio_prompts/a%00b", "/preview/..%2f"]
)
def test_paths_lead_nowhere(victim: Server, path: str) -> None:
    assert victim.get(path).status_code in (400, 404)


def pieces(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 65_536):
        yield data[start : start + 65_536]


def form(victim: Server, body: Any, content_type: str = "multipart/form-data; boundary=b") -> httpx.Response:
    return httpx.post(
        f"{victim.url}/v1/audio_prompts/upload", content=body, headers={"content-type": content_type}, timeout=60
    )


def part(name: str, data: bytes, *, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


ID, SOUND, END = part("prompt_id", b"x"), part("audio_file", wav(VOICE), filename="../../a.wav"), b"--b--\r\n"


@pytest.mark.parametrize("size", [26_214_401, 27_262_976])
@pytest.mark.parametrize("chunked", [False, True])
def test_26_megabytes(victim: Server, size: int, chunked: bool) -> None:
    body = ID + part("audio_file", b"RIFF" + bytes(size - 4), filename="a.wav") + END
    answer = form(victim, pieces(body) if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (ID + END, "'audio_file' is required"),
        (SOUND + END, "'prompt_id' is required"),
        (part("id", b"x") + part("file", wav(VOICE), filename="a.wav") + END, "the form has id, file"),
        (ID + SOUND, "can't be read"),
        (ID + SOUND[:-1000], "can't be read"),
        (ID + ID + SOUND + END, "'prompt_id' is there twice"),
        (ID + SOUND + SOUND + END, "'audio_file' is there twice"),
        (part("prompt_id", b"\xff") + SOUND + END, "not UTF-8"),
        (part("prompt_id", b"x" * 10_000) + SOUND + END, "more than 4096 bytes"),
        (ID + part("overwrite", b"maybe") + SOUND + END, "'overwrite' must be true or false"),
        (part("a", b"") * 40 + ID + SOUND + END, "can't be read"),
        (b"--b\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", "can't be read"),
        (b"--b\r\n\r\nno name\r\n--b--\r\n", "can't be read"),
        (b"no form at all", "can't be read"),
        (b"", "can't be read"),
    ],
)
def test_forms_that_are_none(victim: Server, body: bytes, words: str) -> None:
    answer = form(victim, body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"], answer.text


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=\xe4", 400),
        ("multipart/form-data; boundary=" + "b" * 5000, 400),
    ],
)
def test_forms_say_what_they_are(victim: Server, content_type: str, status: int) -> None:
    head = {"content-type": content_type.encode("latin-1")}
    answer = httpx.post(f"{victim.url}/audio_prompts/upload", content=ID + SOUND + END, headers=head, timeout=10)
    assert answer.status_code == status


def test_who_hangs_up_in_the_middle_leaves_nothing(victim: Server) -> None:
    host, port = victim.url.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(
                b"POST /audio_prompts/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + ID + SOUND[:100_000]
            )
    wait_until(lambda: kept(victim) == [])
    # They have given their places back.
    assert upload(victim, "bad", b"").status_code == 400


REAL = [wav(VOICE[:20_000]), *(encoded(*kind, VOICE[:20_000]) for kind in (
    ("mp3", "libmp3lame"), ("flac", "flac"), ("ipod", "aac"), ("adts", "aac")
))]  # fmt: skip
MAGIC = [
    b"",
    b"RIFF\x24\0\0\0WAVEfmt ",
    b"fLaC\0\0\0\x22",
    b"OggS\0\2",
    b"\0\0\0\x20ftypM4A ",
    b"\x1aE\xdf\xa3",
    b"ID3\4\0",
]
MAGIC += [b"\xff\xfb\x90\x64", b"\xff\xf1\x50\x80", b"PK\x03\x04", b"\x7fELF"]


@st.composite
def harmful(draw: st.DrawFn) -> bytes:
    """Bytes that begin like a sound, or a sound with some bytes changed."""
    if draw(st.booleans()):
        return draw(st.sampled_from(MAGIC)) + draw(st.binary(max_size=2_000))
    data = bytearray(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(0, min(len(data), 400) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


def test_a_thousand_random_files(victim: Server) -> None:
    with httpx.Client(base_url=victim.url, timeout=60) as client:

        @given(data=harmful())
        @settings(max_examples=1_000, deadline=None, suppress_health_check=list(HealthCheck))
        def check(data: bytes) -> None:
            answer = client.post("/audio_prompts/upload", data={"prompt_id": "any"}, files={"audio_file": ("a", data)})
            # Half a second is shorter than any prompt may be.
            assert answer.status_code == 400, answer.text

        check()
    assert '"status":500' not in victim.log()


def test_too_many_uploads_at_once_are_told_to_wait(victim: Server) -> None:
    with configured(victim, max_uploads=1):
        host, port = victim.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(
                b"POST /audio_prompts/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + ID
            )
            # It takes its place once its head has been read.
            wait_until(lambda: upload(victim, "x", b"").status_code == 503)
            answer = upload(victim, "x", wav(VOICE))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        wait_until(lambda: upload(victim, "x", wav(VOICE)).status_code == 200)
        httpx.delete(f"{victim.url}/audio_prompts/x").raise_for_status()
