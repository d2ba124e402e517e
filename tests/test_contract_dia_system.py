"""The Dia contract's pages on the system, errors and troubles; docs/contracts/dia.md names each of these tests."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from conftest import Server, make_home, running_server, wait_until
from contract import PHRASE, VOICE, configured, finished, generate, send, submit
from dia_server.settings import Settings

CONFIG = {
    "debug_mode": False,
    "save_outputs": False,
    "show_prompts": False,
    "output_retention_hours": 24,
    "auto_discover_prompts": True,
    "auto_transcribe": True,
    "whisper_model_size": "base",
}
# The default model fails as its text tells it to, and another one has no worker that could run it.
FAILING = {
    "engine": "rude",
    "crash_loop_deaths": 1,
    "crash_loop_wait": 1000,
    "lanes": {"speech": {"models": ["rude"], "processes": 1}, "dead": {"models": ["deadly"], "processes": 1}},
}


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "plugin"), prepend=":")
        with running_server(make_home(tmp_path_factory.mktemp("failing"), FAILING)) as server:
            server.wait_until_ready(1)
            yield server


def test_base_url() -> None:
    assert Settings().port == 7860


def test_routes_are_there_twice(server: Server) -> None:
    routes = server.get("/schema/openapi.json").json()["paths"].keys()
    families = "audio_prompts|config|generate|gpu|health|jobs|logs|preview|queue|voice_mappings|voices|whisper"
    roots = {route for route in routes if re.match(rf"/({families})(/|$)", route)}
    assert len(roots) > 15
    assert {f"/v1{route}" for route in roots} <= routes


def test_health(server: Server) -> None:
    answer = server.get("/health")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["model_loaded"]) == ("healthy", True)
    assert body["timestamp"] == pytest.approx(time.time(), abs=60)


def test_gpu_status(server: Server) -> None:
    status = server.get("/gpu/status").json()
    fields = ("gpu_mode", "gpu_count", "allowed_gpus", "use_multi_gpu", "models_loaded", "gpu_memory")
    assert tuple(status) == fields
    assert status["use_multi_gpu"] is (len(status["allowed_gpus"]) > 1)
    for memory in status["gpu_memory"].values():
        assert tuple(memory) == ("allocated_gb", "reserved_gb", "total_gb", "free_gb")
    if status["gpu_mode"] == "cpu":
        assert status == dict(zip(fields, ("cpu", 0, [], False, {"cpu": True}, {}), strict=True))


def test_get_config(server: Server) -> None:
    assert server.get("/config").json().keys() >= CONFIG.keys()


def test_put_config_example(failing: Server) -> None:
    """On a server without recordings, which Whisper would now begin to write down."""
    answer = send(failing, "PUT", "/config", CONFIG)
    assert (answer.status_code, answer.json()["message"]) == (200, "Configuration updated successfully")
    assert answer.json()["config"].items() >= CONFIG.items()
    assert failing.get("/config").json() == answer.json()["config"]
    saved = yaml.safe_load((failing.home / "config.yaml").read_text(encoding="utf-8"))
    assert saved.items() >= {name: CONFIG[name] for name in ("auto_discover_prompts", "whisper_model_size")}.items()


def test_status_200(server: Server) -> None:
    assert generate(server).status_code == 200
    assert server.get("/voices").status_code == 200


def test_status_400(server: Server) -> None:
    invalid, empty = generate(server, speed=5), generate(server, text="")
    assert (invalid.status_code, empty.status_code) == (400, 400)
    assert "'speed'" in invalid.json()["detail"]
    assert "nothing to speak" in empty.json()["detail"]


def test_status_404(server: Server) -> None:
    assert generate(server, voice_id="nobody").json()["detail"].startswith("Voice 'nobody' not found")
    assert generate(server, voice_id="nobody").status_code == 404
    missing = server.get("/jobs/nonesuch")
    assert (missing.status_code, missing.json()["detail"]) == (404, "Job 'nonesuch' not found")


def test_status_425(server: Server) -> None:
    job_id = submit(server, text=f"{PHRASE} " * 200)
    early = server.get(f"/jobs/{job_id}/result")
    send(server, "DELETE", f"/jobs/{job_id}").raise_for_status()
    assert (early.status_code, "Job not completed" in early.json()["detail"]) == (425, True)


def test_status_500(failing: Server) -> None:
    broken = generate(failing, voice_id="static", text="Raise.")
    assert (broken.status_code, list(broken.json())) == (500, ["detail"])
    job = finished(failing, submit(failing, voice_id="static", text="Raise."))
    assert (job["status"], bool(job["error_message"])) == ("failed", True)
    result = failing.get(f"/jobs/{job['id']}/result")
    assert (result.status_code, result.json()) == (500, {"detail": f"Job failed: {job['error_message']}"})
    assert generate(failing, voice_id="static").status_code == 200


def test_status_503(failing: Server) -> None:
    wait_until(lambda: any(worker["state"] == "waiting" for worker in failing.workers()))
    refused = failing.speak(voice="static", model="deadly")
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


def test_error_format(seraphina: Server) -> None:
    answer = generate(seraphina, voice_id="invalid_voice")
    voices = [voice["id"] for voice in seraphina.get("/voices").json()["voices"]]
    assert VOICE in voices
    assert answer.json() == {"detail": f"Voice 'invalid_voice' not found. Available voices: {voices}"}
    other = seraphina.speak(voice="invalid_voice").json()
    assert other["detail"] == other["error"]["message"] == answer.json()["detail"]


def test_more_requests_than_workers(server: Server) -> None:
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda seed: generate(server, seed=seed), range(12)))
    assert {answer.status_code for answer in answers} == {200}


def test_request_timeout() -> None:
    assert Settings().segment_timeout == Settings().request_timeout == 60


def test_no_default_voices(server: Server) -> None:
    with configured(server, voice_aliases={}):
        answer = generate(server, voice_id="alloy")
    assert (answer.status_code, answer.json()["detail"][:24]) == (404, "Voice 'alloy' not found.")
    assert generate(server, voice_id="alloy").status_code == 200


def test_explicit_voices(seraphina: Server) -> None:
    answer = generate(seraphina, text="Hello", voice_id=VOICE, seed=42)
    assert (answer.status_code, answer.headers["x-seed"]) == (200, "42")


def test_model_not_loaded(failing: Server) -> None:
    wait_until(lambda: failing.get("/health").json()["status"] == "degraded")
    assert failing.get("/health").json()["model_loaded"] is True


def test_empty_text(server: Server) -> None:
    for text in ("", " \n", "[S1]", "***"):
        answer = generate(server, text=text)
        assert (answer.status_code, "nothing to speak" in answer.json()["detail"]) == (400, True)


def test_debug_mode(server: Server) -> None:
    with configured(server, debug_mode=True, show_prompts=True):
        shown = generate(server).headers["x-generation-id"]
    with configured(server, debug_mode=True, show_prompts=False):
        hidden = generate(server).headers["x-generation-id"]
    assert server.get(f"/logs/{shown}").json()["text"] == PHRASE
    assert server.get(f"/logs/{hidden}").json()["text"] == ""
    assert '"level":"debug"' in server.log()


def test_save_outputs(server: Server) -> None:
    with configured(server, debug_mode=True, save_outputs=True):
        answer = generate(server)
        generation_id = answer.headers["x-generation-id"]
        saved = server.get(f"/logs/{generation_id}/download")
        assert (saved.status_code, saved.content) == (200, answer.content)
    assert send(server, "DELETE", f"/logs/{generation_id}").status_code == 200
    assert server.get(f"/logs/{generation_id}").status_code == 404
