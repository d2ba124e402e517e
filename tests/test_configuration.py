"""Settings shown and changed while the server runs: what counts at once, what is refused, and what is in the file."""

from __future__ import annotations

import asyncio
import random
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

import settings_reference
from conftest import Server, make_home, running_server, wait_until
from dia_server.config_file import Sources, load_settings
from dia_server.errors import BadInput, Conflict
from dia_server.services.configuration import Configuration
from dia_server.settings import RESTART, SECRETS, Settings
from recordings import voice_like, wav

NOISE = {"engine": "noise", "lanes": {"speech": {"models": ["noise"], "processes": 1}}}
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


def put(server: Server, path: str = "/config", **values: Any) -> httpx.Response:
    return httpx.put(server.url + path, json=values, timeout=60)


def file_of(server: Server) -> Path:
    return server.home / "config.yaml"


def in_file(server: Server) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(file_of(server).read_text(encoding="utf-8"))
    return content


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


def test_comments_and_all_other_lines_stay(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    text = settings_reference.config_yaml() + (
        "\nengine:   'noise'   # ours\nlanes:\n  speech: {models: [noise], processes: 1}\n  # one is enough\n"
        "\nmax_clips: 9  # few\nauto_transcribe: off\n# the end"
    )
    (home / "config.yaml").write_text(text)
    with running_server(home) as server:
        changes = {"max_clips": 8, "max_queue": 7, "output_retention_hours": None, "cors_origins": ["null"]}
        assert put(server, **changes, voice_aliases={"a: b": "#1"}).status_code == 200
        after = file_of(server).read_text()
        expected = (
            text.replace("max_clips: 9  # few", "max_clips: 8  # few")
            .replace("#max_queue: 100\n", "#max_queue: 100\nmax_queue: 7\n")
            .replace("#output_retention_hours: 24.0\n", "#output_retention_hours: 24.0\noutput_retention_hours: null\n")
            .replace("#- https://127.0.0.1:*\n", "#- https://127.0.0.1:*\ncors_origins:\n- 'null'\n")
            .replace("#  cedar: heron\n", "#  cedar: heron\nvoice_aliases:\n  'a: b': '#1'\n")
        )
        assert after.splitlines() == expected.splitlines()
        assert put(server, voice_aliases={}, cors_origins=[]).status_code == 200
        again = expected.replace("cors_origins:\n- 'null'\n", "cors_origins: []\n")
        assert file_of(server).read_text() == again.replace("voice_aliases:\n  'a: b': '#1'\n", "voice_aliases: {}\n")


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
    body = {"input": "Hello there. " * 2, "voice": "slow", "seed": 1, "response_format": "pcm"}
    whole = tuned.post("/v1/audio/speech", body).content
    with httpx.stream("POST", f"{tuned.url}/v1/audio/speech", json=body, timeout=60) as answer:
        pieces = answer.iter_bytes()
        first = next(pieces)
        with changed(tuned, max_audio_seconds=0.1):
            assert first + b"".join(pieces) == whole


def test_what_the_environment_sets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIA_SERVER_MAX_QUEUE", "5")
    with running_server(make_home(tmp_path, {**NOISE, "max_queue": 4})) as server:
        answer = put(server, max_queue=6)
        assert answer.status_code == 400
        assert "DIA_SERVER_MAX_QUEUE, which would win again" in answer.json()["detail"]
        assert put(server, max_queue=5, max_clips=6).status_code == 200
        assert (in_file(server)["max_queue"], in_file(server)["max_clips"]) == (4, 6)
        assert "set by the command line" in put(server, port=9).json()["detail"]


def test_changes_outlive_the_server_and_keys_stay_secret(tmp_path: Path) -> None:
    file, headers = tmp_path / "elsewhere.yaml", {"X-API-Key": "sk-0123456789"}
    home = make_home(tmp_path / "home", NOISE)
    (home / "config.yaml").replace(file)
    with file.open("a") as text:
        text.write("api_keys: [sk-0123456789]  # mine\n")
    file.chmod(0o600)
    (home / "link.yaml").symlink_to(file)
    for queue in (7, 8):
        with running_server(home, "--config", str(home / "link.yaml")) as server:
            server.headers |= headers
            assert httpx.get(f"{server.url}/config").status_code == put(server, max_queue=1).status_code == 401
            assert server.get("/config").json()["max_queue"] == {7: 100, 8: 7}[queue]
            answer = httpx.put(f"{server.url}/config", json={"max_queue": queue}, headers=headers)
            assert answer.status_code == 200
            guess = httpx.put(f"{server.url}/config", json={"api_keys": ["sk-0123456789"]}, headers=headers)
            assert (guess.status_code, guess.json()["detail"].startswith("'api_keys' can't be changed")) == (400, True)
            assert "sk-0123456789" not in answer.text + guess.text + server.get("/config").text + server.log()
    assert "api_keys: [sk-0123456789]  # mine\n" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (home / "link.yaml").is_symlink()
    assert not (home / "config.yaml").exists()


def test_a_home_without_a_file_gets_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NOISE.items():
        monkeypatch.setenv(f"DIA_SERVER_{name.upper()}", yaml.safe_dump(value, default_flow_style=True))
    with running_server(tmp_path) as server:
        assert put(server, max_queue=100).status_code == 200
        assert not file_of(server).exists()
        assert put(server, max_queue=101).status_code == 200
        assert file_of(server).read_text() == "max_queue: 101\n"


def test_changes_that_come_together_all_count(tuned: Server) -> None:
    names = ["max_input_characters", "max_clips", "max_queue", "task_strikes", "read_ahead", "max_uploads"]
    with changed(tuned, **dict.fromkeys(names, 9)), ThreadPoolExecutor(12) as threads:
        values = [(name, 10 + number) for number in range(5) for name in names]
        answers = list(threads.map(lambda each: put(tuned, **dict([each])), values))
        assert {answer.status_code for answer in answers} == {200}
        shown = tuned.get("/config").json()
        assert all(10 <= shown[name] <= 14 for name in names)
        assert {name: in_file(tuned)[name] for name in names} == {name: shown[name] for name in names}


def test_ten_kills_leave_a_whole_file(tmp_path: Path) -> None:
    home, dice = make_home(tmp_path, NOISE), random.Random(1)
    before = in_file_of(home)

    def change(server: Server) -> None:
        with httpx.Client(base_url=server.url) as client:
            try:
                for number in range(1, 100_000):
                    values = {"max_queue": number, "max_clips": number, "voice_aliases": {"n": "x" * number}}
                    client.put("/config", json=values)
            except httpx.TransportError:
                return

    for _ in range(10):
        with running_server(home) as server:
            thread = threading.Thread(target=change, args=(server,))
            thread.start()
            wait_until(lambda server=server: "max_clips" in file_of(server).read_text())
            time.sleep(dice.random() / 5)
            server.process.kill()
            server.process.wait()
            thread.join()
        after = in_file_of(home)
        assert after["max_queue"] == after["max_clips"] == len(after["voice_aliases"]["n"])
        assert {name: after[name] for name in before} == before


def in_file_of(home: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((home / "config.yaml").read_text(encoding="utf-8"))
    return content


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


def test_what_is_edited_by_hand_meanwhile_stays(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE)) as server:
        with file_of(server).open("a") as text:
            text.write("max_clips: 3  # by hand\nmax_queue: 4\n")
        answer = put(server, max_queue=100)
        assert (answer.json()["config"]["max_clips"], in_file(server)["max_clips"]) == (256, 3)
        assert in_file(server)["max_queue"] == 100
        with file_of(server).open("a") as text:
            text.write("max_clips: none\n")
        whole = file_of(server).read_bytes()
        answer = put(server, max_queue=9)
        assert answer.status_code == 409
        assert "not valid any more" in answer.json()["detail"]
        assert "max_clips" in answer.json()["detail"]
        assert (file_of(server).read_bytes(), server.get("/config").json()["max_queue"]) == (whole, 100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "max_queue: 7\n"),
        ("# none", "# none\nmax_queue: 7\n"),
        ("port: 1", "port: 1\nmax_queue: 7\n"),
        ("max_queue: 5 # five\r\nport: 1\r\n", "max_queue: 7 # five\r\nport: 1\r\n"),
        ("port: 1\r\n", "port: 1\r\nmax_queue: 7\r\n"),
        ("max_queue: 1\nmax_queue: 2\n", "max_queue: 1\nmax_queue: 7\n"),
        ('"max_queue": !!int "5"\n', "max_queue: 7\n"),
        ("\ufeffmax_queue: 5\n", "\ufeffmax_queue: 7\n"),
        ("---\nmax_queue: 5\n", "---\nmax_queue: 7\n"),
        ("# max_queue: 3\nport: 1\n", "# max_queue: 3\nmax_queue: 7\nport: 1\n"),
        ("engine: >-\n  auto\n\n# end\n", "engine: >-\n  auto\n\n# end\nmax_queue: 7\n"),
        ("lanes:\n  speech:\n    models: [noise]\n#max_queue: 1\n    processes: 2\n", None),
        ("{port: 1}", None),
        ("port: &p 1\nmax_queue: *p\n", None),
        ("max_queue: 1\n...\n", None),
        ("port: 1\n---\nmax_queue: 1\n", None),
        ("? max_queue\n: 1\n", None),
        ("  max_clips: 1\n", None),
        ("max_queue:\n", None),
        ("[1]", None),
        ("\x00", None),
    ],
)
async def test_forms_of_the_file_that_are_changed_or_refused(tmp_path: Path, text: str, expected: str | None) -> None:
    file, settings = tmp_path / "config.yaml", Settings()
    file.write_bytes(text.encode())
    configuration = Configuration(settings, Sources(file, {}, {}))
    if expected is None:
        with pytest.raises(Conflict, match=r"config\.yaml"):
            await configuration.change({"max_queue": 7})
        assert (file.read_bytes(), settings) == (text.encode(), Settings())
    else:
        await configuration.change({"max_queue": 7})
        assert (file.read_bytes().decode(), settings) == (expected, Settings(max_queue=7))


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n"])
async def test_aliases_that_stay_keep_their_comments(tmp_path: Path, end_of_line: str) -> None:
    file, settings = tmp_path / "config.yaml", Settings(voice_aliases={})
    lines = ["# Ada's", "jo: ada  # likes it", "# Bob's", "bo: 'bob'", "cy: cyd"]
    file.write_bytes(end_of_line.join(["voice_aliases:  # mine", *(f"    {line}" for line in lines), "# end"]).encode())
    configuration = Configuration(settings, Sources(file, {}, {}))
    await configuration.change({"voice_aliases": {"no": "robin", "bo": "bob", "jo": "eve"}})
    lines = ["'no': robin", "# Bob's", "bo: 'bob'", "# Ada's", "jo: eve  # likes it"]
    expected = end_of_line.join(["voice_aliases:  # mine", *(f"    {line}" for line in lines), "# end"])
    assert file.read_bytes().decode() == expected
    assert list(load_settings(file, {}).voice_aliases) == list(settings.voice_aliases) == ["no", "bo", "jo"]


async def test_each_setting_can_be_changed_or_says_why_not(tmp_path: Path) -> None:
    settings = Settings()
    configuration = Configuration(settings, Sources(tmp_path / "config.yaml", {}, {}))
    for name, value in msgspec.structs.asdict(Settings()).items():
        if name in RESTART or name in SECRETS:
            with pytest.raises(BadInput, match="restart"):
                await configuration.change({name: "other"})
        else:
            await configuration.change({name: value})
    assert settings == Settings()
    assert not (tmp_path / "config.yaml").exists()
    await asyncio.gather(*(configuration.change({"max_queue": number}) for number in range(1, 20)))
    assert load_settings(tmp_path / "config.yaml", {}) == settings == Settings(max_queue=19)
