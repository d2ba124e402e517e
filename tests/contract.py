"""What the tests of the Dia contract share: the voice of its examples, and how its clients ask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from conftest import Server, wait_until

# Made by the fixture `seraphina`, of a recording whose transcript is known.
VOICE = "seraphina_voice"
PROMPT = "seraphina_prompt"
PHRASE = "Hello world."


def send(server: Server, method: str, path: str, body: Any = None) -> httpx.Response:
    return httpx.request(method, server.url + path, json=body, headers=server.headers, timeout=60)


def upload(server: Server, prompt_id: str, data: bytes, name: str = "voice.wav") -> httpx.Response:
    form = {"prompt_id": prompt_id}
    return httpx.post(f"{server.url}/audio_prompts/upload", data=form, files={"audio_file": (name, data)}, timeout=60)


def generate(server: Server, **fields: Any) -> httpx.Response:
    return server.post("/generate", {"text": PHRASE, "voice_id": "skylark", **fields})


def speech(server: Server, **fields: Any) -> httpx.Response:
    return server.post("/v1/audio/speech", {"input": PHRASE, "voice": "skylark", **fields})


def check_values(server: Server, field: str, allowed: Iterable[Any], refused: Iterable[Any]) -> None:
    """`/generate` takes these values, and null for the default; others are a 400 that names the field."""
    for value in (None, *allowed):
        answer = generate(server, **{field: value})
        assert (value, answer.status_code) == (value, 200), answer.text
    for value in refused:
        answer = generate(server, **{field: value})
        assert (value, answer.status_code) == (value, 400)
        assert answer.json()["detail"].startswith(f"'{field}'")


def submit(server: Server, **fields: Any) -> str:
    """The id of a new job."""
    answer = server.post("/generate?async_mode=true", {"text": PHRASE, "voice_id": "skylark", **fields})
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["job_id"]
    return job_id


def job(server: Server, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/jobs/{job_id}").json()
    return found


def finished(server: Server, job_id: str) -> dict[str, Any]:
    """The job, once it has ended."""
    wait_until(lambda: job(server, job_id)["status"] not in ("pending", "processing"))
    return job(server, job_id)


@contextmanager
def configured(server: Server, **values: Any) -> Iterator[None]:
    """Other settings for a while, by the contract's own routes."""
    before = server.get("/config").json()
    answer = send(server, "PUT", "/config", values)
    assert answer.status_code == 200, answer.text
    try:
        yield
    finally:
        send(server, "PUT", "/config", {name: before[name] for name in values}).raise_for_status()
