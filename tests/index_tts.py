"""How clients of IndexTTS2's API ask."""

from __future__ import annotations

import base64
from typing import Any

import httpx

from conftest import Server, wait_until

# The contract's example.
EXAMPLE = {
    "text": "Hello world",
    "spk_audio_prompt": "examples/voice_01.wav",
    "emo_vector": [0, 0, 0, 0, 0, 0, 0, 0],
    "cfg_value": 2.0,
    "inference_timesteps": 10,
    "normalize": False,
    "denoise": False,
    "retry_badcase": True,
    "retry_badcase_max_times": 3,
    "retry_badcase_ratio_threshold": 6.0,
    "use_random": False,
    "output_path": "tasks/output.wav",
    "verbose": True,
}
# A voice with which noise needs no recording.
NOISE = {"text": "Hello world", "spk_audio_prompt": "static", "model": "noise", "seed": 7}


def post(server: Server, params: dict[str, Any], **headers: str) -> httpx.Response:
    return server.post("/tts", {"params": params}, headers=headers)


def submit(server: Server, params: dict[str, Any]) -> str:
    """The id of a new task."""
    answer = post(server, params)
    assert answer.status_code == 200, answer.text
    task_id: str = answer.json()["task_id"]
    return task_id


def refusal(server: Server, params: dict[str, Any]) -> str:
    """The reason of a 400."""
    answer = post(server, params)
    assert (answer.status_code, list(answer.json())) == (400, ["detail"]), answer.text
    detail: str = answer.json()["detail"]
    return detail


def task(server: Server, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/tts/{task_id}").json()
    return found


def ended(server: Server, task_id: str) -> dict[str, Any]:
    """The task, once it is done or has failed."""
    wait_until(lambda: task(server, task_id)["status"] in ("done", "error"))
    return task(server, task_id)


def wav_of(found: dict[str, Any]) -> bytes:
    assert found["status"] == "done", found
    head, _, data = found["audio_data"].partition(",")
    assert head == "data:audio/wav;base64"
    return base64.b64decode(data, validate=True)


def spoken(server: Server, params: dict[str, Any]) -> bytes:
    """The wav file that comes of a task."""
    return wav_of(ended(server, submit(server, params)))


def data_uri(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


def delete(server: Server, task_id: str) -> httpx.Response:
    return httpx.delete(f"{server.url}/tts/{task_id}", timeout=60)
