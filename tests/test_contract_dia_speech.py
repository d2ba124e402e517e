"""The Dia contract's routes that speak, row by row; docs/contracts/dia.md names each of these tests."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import sound
from conftest import Server, wait_until
from contract import PHRASE, VOICE, check_values, configured, finished, generate, speech, submit

FIXED = {"temperature": 1.2, "cfg_scale": 3.0, "top_p": 0.95}
DIALOGUE = {
    "text": "[S1] Hello world! [S2] How are you today?",
    "voice_id": VOICE,
    "seed": 42,
    **FIXED,
    "speed": 1.0,
}
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def run(server: Server, folder: Path, *command: str) -> bytes:
    """What a command prints that means the server by the contract's address."""
    words = [word.replace("http://localhost:7860", server.url) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, check=True, timeout=60).stdout


def at_once(server: Server, *requests: dict[str, Any]) -> list[bytes]:
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda fields: generate(server, **fields), requests))
    assert {answer.status_code for answer in answers} == {200}
    return [answer.content for answer in answers]


def test_authentication_takes_any_bearer_token(server: Server) -> None:
    headers = {"Authorization": "Bearer your-token-here"}
    body = {"text": PHRASE, "voice_id": "skylark"}
    assert server.post("/generate", body, headers=headers).status_code == 200
    assert server.post("/generate", body).status_code == 200


def test_generate_text(server: Server) -> None:
    missing = server.post("/generate", {"voice_id": "skylark"})
    assert (missing.status_code, missing.json()["detail"]) == (400, "'text' is required")
    assert generate(server, text=PHRASE.ljust(4096)).status_code == 200
    refused = generate(server, text=PHRASE.ljust(4097))
    assert (refused.status_code, "allowed are 4096" in refused.json()["detail"]) == (400, True)


def test_generate_voice_id(server: Server) -> None:
    missing = server.post("/generate", {"text": PHRASE})
    assert (missing.status_code, missing.json()["detail"]) == (400, "'voice_id' is required")
    assert generate(server, voice_id="nobody").status_code == 404


def test_generate_response_format(server: Server) -> None:
    for chosen, kind, audio_format in ((None, "audio/wav", "wav"), ("wav", "audio/wav", "wav")):
        answer = generate(server, response_format=chosen)
        assert (answer.headers["content-type"], answer.content[:4]) == (kind, b"RIFF")
        assert sound.seconds(answer.content, audio_format) > 0.3
    mp3 = generate(server, response_format="mp3")
    assert mp3.headers["content-type"] == "audio/mpeg"
    assert mp3.headers["content-disposition"] == "attachment; filename=speech.mp3"
    assert sound.seconds(mp3.content, "mp3") > 0.3
    assert generate(server, response_format="midi").status_code == 400


def test_generate_speed(server: Server) -> None:
    check_values(server, "speed", allowed=(0.25, 1, 4.0), refused=(0.24, 4.01, "1.0", True))
    plain, quick = (generate(server, seed=1, speed=speed).content for speed in (1.0, 2.0))
    assert sound.seconds(quick, "wav") < 0.7 * sound.seconds(plain, "wav")


def test_generate_role(server: Server) -> None:
    check_values(server, "role", allowed=("user", "assistant", "system"), refused=("narrator", 1))
    roles = [generate(server, role=role, seed=1).content for role in (None, "user", "system")]
    assert len(set(roles)) == 1
    assert finished(server, submit(server, role="assistant"))["role"] == "assistant"


def test_generate_temperature(server: Server) -> None:
    check_values(server, "temperature", allowed=(0.1, 1, 2.0), refused=(0.09, 2.01, "hot"))


def test_generate_cfg_scale(server: Server) -> None:
    check_values(server, "cfg_scale", allowed=(1.0, 10), refused=(0.99, 10.1, "3"))


def test_generate_top_p(server: Server) -> None:
    check_values(server, "top_p", allowed=(0.0, 1), refused=(-0.01, 1.01, "all"))


def test_generate_max_tokens(server: Server) -> None:
    check_values(server, "max_tokens", allowed=(100, 10_000), refused=(99, 10_001, 100.5))


def test_generate_use_torch_compile(server: Server) -> None:
    check_values(server, "use_torch_compile", allowed=(True, False), refused=("yes", 1))


def test_generate_seed(server: Server) -> None:
    check_values(server, "seed", allowed=(0, 42, 2**63 - 1), refused=(2**63, 1.5, "42"))
    assert generate(server, seed=42).headers["x-seed"] == "42"
    drawn = generate(server, seed=None)
    assert generate(server, seed=int(drawn.headers["x-seed"])).content == drawn.content


def test_generate_async_mode(server: Server) -> None:
    body = {"text": PHRASE, "voice_id": "skylark"}
    for query, kind in (
        ("", "audio/wav"),
        ("?async_mode=false", "audio/wav"),
        ("?async_mode=true", "application/json"),
    ):
        assert server.post(f"/generate{query}", body).headers["content-type"] == kind
    assert server.post("/generate?async_mode=maybe", body).status_code == 400


def test_generate_at_once_example(seraphina: Server) -> None:
    answer = seraphina.post("/generate", DIALOGUE)
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "42")
    assert sound.seconds(answer.content, "wav") > 1.5


def test_generate_at_once_answer(server: Server) -> None:
    answer = generate(server)
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["content-disposition"] == "attachment; filename=speech.wav"
    assert "x-generation-id" not in answer.headers


def test_generate_id_in_debug_mode(server: Server) -> None:
    with configured(server, debug_mode=True):
        generation_id = generate(server).headers["x-generation-id"]
    entry = server.get(f"/logs/{generation_id}").json()
    assert (entry["id"], entry["voice"]) == (generation_id, "skylark")


@needs_curl
def test_generate_as_a_job_example(seraphina: Server, tmp_path: Path) -> None:
    body = f'{{"text": "[S1] Long text for background processing", "voice_id": "{VOICE}", "seed": 1234}}'
    url = "http://localhost:7860/generate?async_mode=true"
    output = run(seraphina, tmp_path, "curl", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", body)
    answer = httpx.Response(200, content=output).json()
    assert answer == {"job_id": answer["job_id"], "status": "pending", "message": "Job queued for processing"}
    assert finished(seraphina, answer["job_id"])["seed"] == 1234


def test_generate_as_a_job_answer(server: Server) -> None:
    answer = server.post("/generate?async_mode=true", {"text": PHRASE, "voice_id": "skylark"})
    assert answer.status_code == 200
    job_id = answer.json()["job_id"]
    assert answer.json() == {"job_id": job_id, "status": "pending", "message": "Job queued for processing"}
    assert finished(server, job_id)["status"] == "completed"


def test_speech_input(server: Server) -> None:
    missing = server.post("/v1/audio/speech", {"voice": "skylark"})
    assert (missing.status_code, missing.json()["detail"]) == (400, "'input' is required")
    assert speech(server).status_code == 200


def test_speech_voice(server: Server) -> None:
    missing = server.post("/v1/audio/speech", {"input": PHRASE})
    assert (missing.status_code, missing.json()["detail"]) == (400, "'voice' is required")
    assert speech(server, voice="nobody").status_code == 404


def test_speech_model(server: Server) -> None:
    plain = speech(server, seed=1)
    named = speech(server, seed=1, model="dia")
    assert named.content == plain.content
    assert named.headers["x-model"] == plain.headers["x-model"]
    assert "warning" not in named.headers


def test_speech_response_format(server: Server) -> None:
    assert speech(server).headers["content-type"] == "audio/wav"
    assert speech(server, model="dia").headers["content-type"] == "audio/wav"
    assert speech(server, response_format="mp3").headers["content-type"] == "audio/mpeg"
    assert speech(server, response_format="midi").status_code == 400


def test_speech_speed(server: Server) -> None:
    plain, same, quick = (speech(server, seed=1, speed=speed).content for speed in (None, 1.0, 2.0))
    assert plain == same
    assert sound.seconds(quick, "wav") < 0.7 * sound.seconds(plain, "wav")
    assert speech(server, speed=4.01).status_code == 400


def test_speech_seed(server: Server) -> None:
    assert speech(server, seed=42).content == speech(server, seed=42).content
    assert speech(server, seed=None).headers["x-seed"] != speech(server, seed=None).headers["x-seed"]


def test_speech_example(seraphina: Server) -> None:
    body = {"input": "Hello, this is a test message", "voice": VOICE, "model": "dia", "speed": 1.0, "seed": 42}
    answer = seraphina.post("/v1/audio/speech", body)
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "42")
    assert sound.seconds(answer.content, "wav") > 1


@needs_curl
def test_speech_with_curl(seraphina: Server, tmp_path: Path) -> None:
    body = f'{{"input": "Hello world", "voice": "{VOICE}", "seed": 2024}}'
    command = ("curl", "-X", "POST", "http://localhost:7860/v1/audio/speech", "-H", "Content-Type: application/json")
    data = run(seraphina, tmp_path, *command, "-d", body)
    assert sound.seconds(data, "wav") > 0.3


def test_seeds_are_deterministic(seraphina: Server) -> None:
    first, second = (seraphina.post("/generate", DIALOGUE).content for _ in range(2))
    assert first == second
    assert seraphina.post("/generate", DIALOGUE | {"seed": 43}).content != first


def test_seeds_sound_the_same_on_every_worker(seraphina: Server) -> None:
    assert len(set(at_once(seraphina, *[DIALOGUE] * 6))) == 1


def test_seeds_of_requests_at_the_same_time_stay_apart(server: Server) -> None:
    requests: list[dict[str, Any]] = [{"seed": seed} for seed in range(6)]
    alone = [generate(server, **fields).content for fields in requests]
    assert at_once(server, *requests) == alone
    assert len(set(alone)) == 6


def test_seeds_are_shown(server: Server) -> None:
    assert generate(server, seed=987_654).headers["x-seed"] == "987654"
    wait_until(lambda: '"seed":987654' in server.log())
    assert finished(server, submit(server, seed=987_655))["seed"] == 987_655


def test_best_practices_example(seraphina: Server) -> None:
    body = {"text": "[S1] Your text here", "voice_id": VOICE, "seed": 42, **FIXED}
    first, second = (seraphina.post("/generate", body) for _ in range(2))
    assert first.status_code == 200
    assert first.content == second.content


def test_consistency_highest(seraphina: Server) -> None:
    """The same whether it comes at once, beside others, or as a job."""
    alone = seraphina.post("/generate", DIALOGUE).content
    together = at_once(seraphina, DIALOGUE, {"seed": 1}, DIALOGUE, {"seed": 2})
    job_id = submit(seraphina, **DIALOGUE)
    assert finished(seraphina, job_id)["status"] == "completed"
    assert [together[0], together[2], seraphina.get(f"/jobs/{job_id}/result").content] == [alone] * 3


def test_consistency_medium(server: Server) -> None:
    first, second = (generate(server, seed=42, **FIXED).content for _ in range(2))
    assert first == second


def test_consistency_basic(server: Server) -> None:
    first, second = (generate(server, seed=42).content for _ in range(2))
    assert first == second


def test_consistency_random(server: Server) -> None:
    first, second = (generate(server) for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert first.content != second.content


def test_optimization_example(seraphina: Server) -> None:
    body = {"text": "[S1] Optimized request", "voice_id": VOICE, "seed": 42, "temperature": 1.2}
    plain = seraphina.post("/generate", body)
    compiled = seraphina.post("/generate", {**body, "use_torch_compile": True})
    assert compiled.status_code == 200
    # What the model has no knob for is named, and changes nothing.
    if "use_torch_compile" in compiled.headers.get("x-unused-parameters", ""):
        assert compiled.content == plain.content


def test_python_example(seraphina: Server, tmp_path: Path) -> None:
    body = {"text": "[S1] Hello world", "voice_id": VOICE, "seed": 42, "temperature": 1.2}
    response = httpx.post(f"{seraphina.url}/generate", json=body, timeout=60)
    with (tmp_path / "output.wav").open("wb") as file:
        file.write(response.content)
    assert sound.seconds((tmp_path / "output.wav").read_bytes(), "wav") > 0.3


FETCH = """
const response = await fetch('http://localhost:7860/v1/audio/speech', {
  method: 'POST',
  headers: { 'Content-Type': 'application/json' },
  body: JSON.stringify({ input: "Hello world", voice: "seraphina_voice", seed: 42 })
});
const audioBlob = await response.blob();
console.log(response.status, audioBlob.type, audioBlob.size);
"""


@needs_node
def test_javascript_example(seraphina: Server, tmp_path: Path) -> None:
    output = run(seraphina, tmp_path, "node", "--input-type=module", "--eval", FETCH)
    status, kind, size = output.decode().split()
    assert (status, kind) == ("200", "audio/wav")
    assert int(size) == len(speech(seraphina, input="Hello world", voice=VOICE, seed=42).content)


@needs_curl
def test_curl_examples(seraphina: Server, tmp_path: Path) -> None:
    body = f'{{"text":"[S1] Test", "voice_id":"{VOICE}", "seed":42}}'
    command = ("curl", "-X", "POST", "http://localhost:7860/generate", "-H", "Content-Type: application/json")
    run(seraphina, tmp_path, *command, "-d", body, "--output", "result.wav")
    assert sound.seconds((tmp_path / "result.wav").read_bytes(), "wav") > 0.2
    assert b'"status":"healthy"' in run(seraphina, tmp_path, "curl", "http://localhost:7860/health")
