"""Keys, rate limits, and pages of other origins."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from litestar import Litestar
from litestar.routes import HTTPRoute

from browser import BlockedError, Page
from conftest import NOISE, SENTENCE, Server, make_home, running_server, wait_until
from contract import configured
from dia_server.app import create_routes
from dia_server.config_file import Sources, load_settings
from dia_server.core import running_core
from dia_server.errors import SettingsError
from dia_server.pool.pool import Pool
from dia_server.settings import Settings

KEYS = ["sk-first-0123456789", "sk-second-9876543210"]

OPEN = {"/", "/health", "/v1/health"}
READING = {"GET", "HEAD", "OPTIONS"}
LISTS = {"/voices", "/v1/voices", "/v1/models", "/v1/audio/models", "/v1/audio/voices"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {**NOISE, "api_keys": KEYS, "cors_origins": ["https://chat.example", "app://obsidian.md"]}
    with running_server(make_home(tmp_path_factory.mktemp("closed"), settings)) as server:
        server.headers["Authorization"] = f"Bearer {KEYS[0]}"
        server.wait_until_ready()
        yield server
        for key in KEYS:
            assert key not in server.log() + server.banner


def fill_in(path: str) -> str:
    known = {"model": "noise", "file_path": "swagger-ui.css"}
    return re.sub(r"{(\w+)}", lambda field: known.get(field[1], "x"), path)


async def application(home: Path) -> Litestar:
    settings = Settings(api_keys=tuple(KEYS))
    async with running_core(settings, home, Pool(settings), "nobody") as core:
        return create_routes(core, Sources(home / "config.yaml", {}, {}))


def routes(tmp_path: Path) -> set[tuple[str, str]]:
    """Every method and path of the route table, parameters filled in."""
    app = asyncio.run(application(tmp_path))
    return {
        (method, fill_in(route.path_format))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
    }


@pytest.mark.filterwarnings("ignore::litestar.exceptions.base_exceptions.LitestarDeprecationWarning")
def test_every_route_wants_a_key_except_those_listed_here(closed: Server, tmp_path: Path) -> None:
    table = routes(tmp_path)
    assert ("POST", "/v1/audio/speech") in table
    assert ("POST", "/v1/audio/voices") in table
    assert {path for _, path in table} >= OPEN | LISTS
    for method, path in table | {("HEAD", path) for method, path in table if method == "GET"}:
        answer = httpx.request(method, closed.url + path, timeout=10)
        is_open = method in READING and (path in OPEN | LISTS or path.startswith(("/schema", "/pages")))
        assert (answer.status_code == 401) == (not is_open), (method, path, answer.status_code)
        assert answer.status_code < 500


def test_lists_can_be_closed_too(closed: Server) -> None:
    with configured(closed, protect_lists=True):
        for path in OPEN | LISTS:
            assert (httpx.get(closed.url + path).status_code == 401) == (path in LISTS)
            assert httpx.get(closed.url + path, headers={"X-API-Key": KEYS[1]}).status_code == 200


def exchange(server: Server, request: bytes) -> bytes:
    host, port = server.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        while data := connection.recv(65_536):
            answer += data
    return answer


FIRST, SECOND = (key.encode() for key in KEYS)


@pytest.mark.parametrize(
    "fields",
    [
        b"Authorization: Bearer " + FIRST + b"\r\n",
        b"Authorization: bearer   " + SECOND + b" \r\n",
        b"X-API-Key: " + SECOND + b"\r\n",
        b"Authorization: Bearer \r\nX-API-Key: " + FIRST + b"\r\n",
        b"Authorization: Bearer none\r\nX-API-Key: " + FIRST + b"\r\n",
    ],
)
def test_keys_that_count(closed: Server, fields: bytes) -> None:
    answer = exchange(closed, b"GET /workers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Authorization: Bearer \r\n",
        b"Authorization: Bearer\r\n",
        b"Authorization:\r\n",
        b"Authorization: Bearer wrong\r\n",
        b"Authorization: Basic " + FIRST + b"\r\n",
        b"Authorization: " + FIRST + b"\r\n",
        b"Authorization: Bearer " + FIRST[:-1] + b"\r\n",
        b"Authorization: Bearer " + FIRST + b"x\r\n",
        b"Authorization: Bearer " + FIRST.upper() + b"\r\n",
        b"Authorization: Bearer \xff\xfe\xc3\xa4\r\n",
        b"Authorization: Bearer " + FIRST + b"\r\nAuthorization: Bearer " + SECOND + b"\r\n",
        b"Authorization: Bearer " + b"k" * 30_000 + b"\r\n",
        b"X-API-Key:  \r\n",
        b"X-API-Key: Bearer " + FIRST + b"\r\n",
        b"X-API-Key: " + FIRST + b", " + SECOND + b"\r\n",
        b"Cookie: key=" + FIRST + b"\r\n",
    ],
)
def test_keys_that_do_not_count(closed: Server, fields: bytes) -> None:
    answer = exchange(closed, b"GET /workers HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nwww-authenticate: Bearer\r\n" in answer


def test_a_key_in_the_query_does_not_count_and_one_of_a_megabyte_is_cut_off(closed: Server) -> None:
    assert httpx.get(f"{closed.url}/workers?api_key={KEYS[0]}").status_code == 401
    long = httpx.get(f"{closed.url}/workers", headers={"Authorization": "Bearer " + "k" * 60_000}, timeout=10)
    assert long.status_code == 401
    with pytest.raises(httpx.TransportError) as caught:
        raise_for_400(httpx.get(f"{closed.url}/workers", headers={"Authorization": "k" * 1_000_000}, timeout=10))
    assert caught.value
    assert closed.get("/health").status_code == 200


def raise_for_400(answer: httpx.Response) -> None:
    """The refusal may come before the whole head is sent, which cuts the sender off."""
    assert answer.status_code == 400
    raise httpx.TransportError("refused")


def test_refusals_are_in_the_words_of_the_family(closed: Server) -> None:
    ours = httpx.post(f"{closed.url}/v1/audio/speech", json={})
    assert ours.json()["error"] == {
        "message": "An API key is missing; send one of the server's as 'Authorization: Bearer …' or 'X-API-Key: …'",
        "type": "authentication_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert ours.json()["detail"] == ours.json()["error"]["message"]
    assert list(httpx.post(f"{closed.url}/generate", json={}).json()) == ["detail"]
    with (
        openai.OpenAI(base_url=f"{closed.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="The API key is wrong"),
    ):
        client.audio.speech.create(model="tts-1", voice="static", input=SENTENCE)
    with openai.OpenAI(base_url=f"{closed.url}/v1", api_key=KEYS[1]) as client:
        assert client.audio.speech.create(model="tts-1", voice="static", input=SENTENCE).content


def test_the_body_is_not_asked_for_before_the_key_is_known(closed: Server) -> None:
    head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    expecting = b"Content-Length: 999999999\r\nExpect: 100-continue\r\n"
    assert exchange(closed, head + expecting + b"\r\n").startswith(b"HTTP/1.1 401 ")
    key = b"X-API-Key: " + FIRST + b"\r\n"
    assert exchange(closed, head + expecting + key + b"\r\n").startswith(b"HTTP/1.1 413 ")
    small = b'{"input": "Hello.", "voice": "static", "response_format": "pcm"}'
    asked = head + key + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(small)
    assert exchange(closed, asked + small).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("key", ["", "two words", "ä", "line\nbreak"])
def test_keys_that_no_header_can_carry_are_refused_at_the_start(key: str) -> None:
    with pytest.raises(SettingsError, match="api_keys"):
        load_settings(None, {}, {"api_keys": [key]})


def test_keys_are_never_quoted(closed: Server) -> None:
    wait_until(lambda: "Stop: Ctrl-C" in closed.banner)
    assert "-H 'Authorization: Bearer <one of api_keys>' -d" in closed.banner
    for text in (
        "[sk-secret, b",
        "[sk-secret: {b]",
        "'sk-secret",
        "sk-secret\t: [",
        "{sk-secret: 1}",
        "[sk-secret, 5]",
    ):
        with pytest.raises(SettingsError) as caught:
            load_settings(None, {"DIA_SERVER_API_KEYS": text})
        assert "sk-secret" not in caught.value.message


def test_keys_come_from_the_environment() -> None:
    assert load_settings(None, {"DIA_SERVER_API_KEYS": "[a, b]"}).api_keys == ("a", "b")


def test_a_full_minute_is_a_429(server: Server) -> None:
    with configured(server, requests_per_minute=60, cors_origins=["*"]):

        def ask(**headers: str) -> httpx.Response:
            return server.post(
                "/v1/audio/speech", {"input": "Hi.", "voice": "static", "model": "noise"}, headers=headers
            )

        def until_refused(headers: Mapping[str, str]) -> int:
            return next(number for number in range(90) if ask(**headers).status_code == 429)

        started = time.monotonic()
        # No key is asked for, so none tells callers apart; nor does what they say of themselves.
        allowed = until_refused({"Authorization": "Bearer a", "X-Forwarded-For": "198.51.100.7"})
        assert 60 <= allowed <= 60 + (time.monotonic() - started) + 1
        headers = {"X-Forwarded-For": "198.51.100.8", "Origin": "https://x.example"}
        # One more is allowed each second.
        answers = (server.post("/generate", {}, headers=headers) for _ in range(90))
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json() == {"detail": "60 requests a minute are allowed; try again in 1 s"}
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["access-control-allow-origin"] == "*"
        assert server.get("/v1/models").status_code == server.get("/health").status_code == 200
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="b", max_retries=0) as client,
            pytest.raises(openai.RateLimitError) as caught,
        ):
            for _ in range(3):
                client.audio.speech.create(model="noise", voice="static", input="Hi.")
        assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
        time.sleep(float(refused.headers["retry-after"]))
        assert ask().status_code == 200


def test_each_key_has_its_own_minute(closed: Server) -> None:
    body = {"input": "Hi.", "voice": "static", "model": "noise"}
    with configured(closed, requests_per_minute=1):
        for key in KEYS:
            answers = [
                httpx.post(f"{closed.url}/v1/audio/speech", json=body, headers={"X-API-Key": key}, timeout=60)
                for _ in range(2)
            ]
            assert [answer.status_code for answer in answers] == [200, 429]


def fetch(server: Server, origin: str, **options: Any) -> httpx.Response:
    body = b'{"input": "Hello.", "voice": "static", "model": "noise", "seed": 5}'
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return Page(origin).fetch(f"{server.url}/v1/audio/speech", "POST", headers, options.pop("content", body))


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "http://localhost", "https://localhost:3000", "http://127.0.0.1:1"]
)
def test_pages_on_this_machine_may_use_the_server(server: Server, origin: str) -> None:
    headers = dict.fromkeys(["Authorization", "Cache-Control", "Idempotency-Key", "X-API-Key", "X-Request-ID"], "x")
    answer = fetch(server, origin, headers=headers)
    assert (answer.status_code, answer.headers["x-seed"], answer.headers["x-model"]) == (200, "5", "noise")
    refused = fetch(server, origin, content=b"{")
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    unknown = Page(origin).fetch(f"{server.url}/v1/nothing")
    assert unknown.json()["error"]["code"] == "unknown_route"


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://localhost:80.evil.example",
        "http://localhost:8000@evil.example",
        "http://localhost:",
        "http://localhost:999999",
        "http://localhost:8000/",
        "http://127.0.0.1.evil.example",
        "http://127a0a0a1",
        "http://[::1]:8000",
        "ftp://localhost",
        "xhttp://localhost",
        "http://LOCALHOST",
    ],
)
def test_pages_from_elsewhere_may_not(server: Server, origin: str) -> None:
    with pytest.raises(BlockedError):
        fetch(server, origin)
    for answer in (
        server.get("/voices", headers={"Origin": origin}),
        httpx.options(f"{server.url}/voices", headers={"Origin": origin, "Access-Control-Request-Method": "GET"}),
        server.post("/generate", {"text": "Hello.", "voice_id": "skylark"}, headers={"Origin": origin}),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["vary"] == "Origin"


def test_a_browser_sends_no_key_when_it_asks_first(closed: Server) -> None:
    answer = fetch(closed, "https://chat.example", headers={"Authorization": f"Bearer {KEYS[0]}"})
    assert answer.status_code == 200
    assert fetch(closed, "app://obsidian.md").json()["error"]["code"] == "invalid_api_key"
    assert "access-control-allow-credentials" not in closed.get("/", headers={"Origin": "https://chat.example"}).headers
    for origin in ("http://localhost:8000", "https://chat.example:8443", "http://chat.example"):
        with pytest.raises(BlockedError):
            fetch(closed, origin)


@pytest.mark.parametrize("origin", ["localhost", "http://*", "https://chat.example/", "http://a b", "http://*:80"])
def test_origins_that_no_page_has_are_refused_at_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="cors_origins"):
        load_settings(None, {}, {"cors_origins": [origin]})


def test_head_is_answered_like_get_without_a_body(server: Server) -> None:
    for path in (
        "/",
        "/health",
        "/voices",
        "/v1/models",
        "/v1/audio/voices?legacy=true",
        "/schema/assets/swagger-ui.css",
    ):
        got, head = server.get(path), httpx.head(server.url + path)
        assert head.status_code == 200
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        assert path == "/health" or head.headers["content-length"] == got.headers["content-length"]
    assert httpx.head(f"{server.url}/nothing").status_code == 404
    refused = httpx.head(f"{server.url}/generate")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST, OPTIONS")
    assert httpx.post(f"{server.url}/voices").headers["allow"].endswith(", HEAD")
    assert '"method":"HEAD","route":"/voices"' in server.log()
