"""Settings shown and changed while the server runs: what counts at once, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from configuring import file_of, in_file, put
from conftest import NOISE, Server, make_home, running_server, wait_until
from dia_server.config_file import load_settings
from dia_server.settings import RESTART, SECRETS, Settings
from recordings import voice_like, wav

UPDATED = "Configuration updated successfully"
# Other values than the server of these tests begins with.
CONTRACT = {
    "debug_mode": True,
    "save_outputs": True,
    "show_prompts": True,
    "output_retention_hours": 1.5,
    "auto_discover_prompts": True,
    "auto_transcribe": True,
    "whisper_model_size": "small",
}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(make_home(tmp_path_factory.mktemp("tuned"), NOISE)) as server:
        server.wait_until_ready()
        yield server


@contextmanager
def changed(server: Server, **values: Any) -> Iterator[None]:
    """Other settings for a while."""
    before = server.get("/config").json()
    answer = put(server, **values)
    assert answer.status_code == 200, answer.text
    try:
        yield
    finally:
        assert put(server, **{name: before[name] for name in values}).status_code == 200


def test_every_setting_but_secrets_is_shown(tuned: Server) -> None:
    shown = tuned.get("/config").json()
    assert list(shown) == [name for name in Settings.__struct_fields__ if name not in SECRETS]
    assert shown["lanes"]["speech"]["models"] == ["noise"]
    assert tuned.get("/v1/config").json() == shown


@pytest.mark.parametrize("path", ["/config", "/v1/config"])
@pytest.mark.parametrize(("name", "value"), CONTRACT.items())
def test_each_of_the_contracts_fields_changes_at_once_and_in_the_file(
    tuned: Server, path: str, name: str, value: Any
) -> None:
    before = tuned.get(path).json()
    assert before[name] != value
    with changed(tuned, **{name: value}):
        answer = put(tuned, path, **{name: value})
        assert answer.json() == {"message": UPDATED, "config": before | {name: value}}
        assert tuned.get(path).json() == before | {name: value}
        assert in_file(tuned)[name] == value


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_clips": 0}, "'max_clips': Expected `int` >= 1"),
        ({"max_clips": "9"}, "'max_clips'"),
        ({"max_clips": 9.5}, "'max_clips'"),
        ({"max_clips": True}, "'max_clips'"),
        ({"max_clips": None}, "'max_clips'"),
        ({"debug_mode": 1}, "'debug_mode'"),
        ({"segment_timeout": 0}, "'segment_timeout'"),
        ({"output_retention_hours": 0}, "'output_retention_hours'"),
        ({"request_timeout": 0.001}, "'request_timeout'"),
        ({"max_body_bytes": 10}, "'max_body_bytes': Expected `int` >= 1024"),
        ({"whisper_model_size": "huge"}, "allowed are base, base.en"),
        ({"voice_aliases": {"a": 1}}, "'voice_aliases"),
        ({"cors_origins": ["http://a/b"]}, "'cors_origins"),
        ({"engine": "parrot"}, "model 'parrot' is not installed; installed are"),
        ({"prot": 1}, "There is no field 'prot'; there are host, port,"),
        ({"api_keys": []}, "it is a secret; edit config.yaml"),
        ({"port": 7}, "change it there"),
        ({"lanes": {}}, "'lanes'"),
    ],
)
def test_one_wrong_value_leaves_all_as_it_was(tuned: Server, wrong: dict[str, Any], named: str) -> None:
    shown, text = tuned.get("/config").json(), file_of(tuned).read_bytes()
    answer = put(tuned, max_queue=55, **wrong)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    refused = put(tuned, "/v1/config", max_queue=55, **wrong).json()["error"]
    assert refused["param"].split("[")[0] == next(iter(wrong))
    assert tuned.get("/config").json() == shown
    assert file_of(tuned).read_bytes() == text


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"1", b'"x"', b"{", b'{"max_queue": NaN}', b'{"segment_timeout": 1e999}',
        b'{"segment_timeout": Infinity}', b"[" * 100_000, b'{"lanes":' + b'{"a":' * 30_000,
        b'{"max_queue": ' + b"9" * 5_000 + b"}", b'{"engine": "\\ud800"}', b'{"engine": "\xff"}',
        b'{"\\u0000": 1}', b'{"' + b"x" * 50_000 + b'": 1}',
    ],
)  # fmt: skip
def test_no_body_does_harm(tuned: Server, body: bytes) -> None:
    text = file_of(tuned).read_bytes()
    headers = {"Content-Type": "application/json"}
    answer = httpx.put(f"{tuned.url}/config", content=body, headers=headers, timeout=60)
    assert answer.status_code == 400
    assert len(answer.content) < 5_000
    assert file_of(tuned).read_bytes() == text
    assert httpx.put(f"{tuned.url}/config", content=body or b"{}").status_code == 415


def test_odd_values_come_back_as_they_were_sent(tuned: Server) -> None:
    aliases = {"no": "~", "": "\u2028é\x00\x1b", "12:30": "x: y #z", "k" * 2_000: "\r\n", "<<": "*a", "- ": "\ufeff"}
    endless = dict.fromkeys(["request_timeout", "upload_timeout", "write_timeout", "segment_timeout"], 1e300)
    with changed(tuned, voice_aliases=aliases, max_clips=10**25, beat_timeout=1e300, **endless):
        assert tuned.speak("Hello.", voice="static", response_format="mp3").status_code == 200
        assert tuned.get("/config").json()["voice_aliases"] == aliases
        assert load_settings(file_of(tuned), {}).voice_aliases == aliases
        assert in_file(tuned)["max_clips"] == 10**25


@pytest.mark.parametrize("name", sorted(RESTART.keys() - SECRETS))
def test_what_is_bound_at_the_start_is_refused_with_the_reason(tuned: Server, name: str) -> None:
    others = {
        "host": "0.0.0.0",  # noqa: S104
        "lanes": {"speech": {"models": ["noise"], "processes": 2}},
        "log_format": "json",
        "models": {"noise": {}},
        "gpu_mode": "cpu",
        "allowed_gpus": [0],
        "run_jobs_in_server": False,
        "index_tts": {"model": "noise"},
    }
    shown = tuned.get("/config").json()[name]
    answer = put(tuned, **{name: others.get(name, 3)})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"'{name}' can't be changed here: ")
    assert "restart" in answer.json()["detail"]
    assert put(tuned, **{name: shown}).status_code == 200


def test_the_whole_answer_may_be_sent_back(tuned: Server) -> None:
    text = file_of(tuned).read_bytes()
    answer = put(tuned, **tuned.get("/config").json())
    assert (answer.status_code, answer.json()["message"]) == (200, UPDATED)
    assert put(tuned).status_code == 200
    assert file_of(tuned).read_bytes() == text


def test_limits_count_for_the_next_request(tuned: Server) -> None:
    def speak(text: str = "Hello.", **fields: Any) -> httpx.Response:
        return tuned.speak(text, **({"voice": "static", "seed": 1} | fields))

    assert "x-generation-id" not in speak().headers
    with changed(tuned, debug_mode=True):
        assert speak().headers["x-generation-id"]
    with changed(tuned, max_input_characters=5):
        assert "allowed are 5" in speak().json()["detail"]
    with changed(tuned, voice_aliases={"jo": "static"}):
        assert speak(voice="jo").content == speak().content
        assert speak(voice="alloy").status_code == 404
    with changed(tuned, unknown_models="refuse"):
        assert speak(model="parrot").status_code == 404
    with changed(tuned, max_queue=1, max_clips=1, max_audio_seconds=0.2):
        assert "0.2 s" in speak(response_format="wav").json()["detail"]
    with changed(tuned, max_body_bytes=1024):
        assert speak("Hello. " * 200).status_code == 413
    with changed(tuned, max_head_bytes=1024):
        assert tuned.get("/health", headers={"X-Filler": "x" * 1024}).status_code == 400
    with changed(tuned, requests_per_minute=1):
        assert [speak().status_code for _ in range(2)] == [200, 429]
    assert [speak().status_code for _ in range(2)] == [200, 200]


def test_pages_that_may_read_answers_change_at_once(tuned: Server) -> None:
    def granted() -> str | None:
        return tuned.get("/health", headers={"Origin": "https://a.example"}).headers.get("access-control-allow-origin")

    assert granted() is None
    with changed(tuned, cors_origins=["https://a.example"]):
        assert granted() == "https://a.example"
    with changed(tuned, cors_origins=["*"]):
        assert granted() == "*"
    assert granted() is None


def test_limits_on_recordings_change_at_once(tuned: Server) -> None:
    recording = wav(voice_like(2))

    def upload() -> httpx.Response:
        return tuned.post("/audio_prompts/upload", data={"prompt_id": "me"}, files={"audio_file": recording})

    with changed(tuned, max_upload_bytes=10_000):
        assert upload().status_code == 413
    refused = put(tuned, max_prompt_seconds=0.5)
    assert (refused.status_code, "`min_prompt_seconds` is more than" in refused.json()["detail"]) == (400, True)
    with changed(tuned, max_prompt_seconds=1.5):
        assert "1.5 s" in upload().json()["detail"]
    assert upload().status_code == 200
    with changed(tuned, max_prompt_seconds=1.5):
        assert "me" not in tuned.get("/audio_prompts").json()
    assert "me" in tuned.get("/audio_prompts").json()


def test_discovery_begins_when_it_is_switched_on(tuned: Server) -> None:
    folder = tuned.home / "audio_prompts"
    folder.mkdir(exist_ok=True)
    (folder / "late.wav").write_bytes(wav(voice_like(2)))
    with changed(tuned, auto_discover_prompts=True):
        wait_until((folder / "late.json").exists)


def test_the_log_follows_debug_mode(tuned: Server) -> None:
    with changed(tuned, debug_mode=True):
        before = tuned.log().count('"level":"debug"')
        tuned.get("/health")
        wait_until(lambda: tuned.log().count('"level":"debug"') > before)
    seen = tuned.log().count('"level":"debug"')
    tuned.get("/health")
    tuned.get("/workers")
    wait_until(lambda: tuned.log().rstrip().endswith("}") and '"/workers"' in tuned.log().splitlines()[-1])
    assert tuned.log().count('"level":"debug"') == seen


def test_a_clip_that_has_begun_ends_by_the_limits_it_began_with(tuned: Server) -> None:
    body = {"input": "Hello there.", "voice": "slow", "seed": 1, "response_format": "pcm"}
    whole = tuned.post("/v1/audio/speech", body).content
    with httpx.stream("POST", f"{tuned.url}/v1/audio/speech", json=body, timeout=60) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        with changed(tuned, max_audio_seconds=0.1):
            assert first + b"".join(pieces) == whole


def test_changes_that_come_together_all_count(tuned: Server) -> None:
    names = ["max_input_characters", "max_clips", "max_queue", "task_strikes", "read_ahead", "max_uploads"]
    with changed(tuned, **dict.fromkeys(names, 9)), ThreadPoolExecutor(12) as threads:
        values = [(name, 10 + number) for number in range(5) for name in names]
        answers = list(threads.map(lambda each: put(tuned, **dict([each])), values))
        assert {answer.status_code for answer in answers} == {200}
        shown = tuned.get("/config").json()
        assert all(10 <= shown[name] <= 14 for name in names)
        assert {name: in_file(tuned)[name] for name in names} == {name: shown[name] for name in names}


def test_a_read_only_file_stays(tuned: Server) -> None:
    shown, text = tuned.get("/config").json(), file_of(tuned).read_bytes()
    file_of(tuned).chmod(0o444)
    try:
        answer = put(tuned, max_queue=3)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert tuned.get("/config").json() == shown
        assert file_of(tuned).read_bytes() == text
    finally:
        file_of(tuned).chmod(0o644)
