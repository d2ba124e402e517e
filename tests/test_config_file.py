"""The file of settings: what a change leaves as it was, what outlives the server, and which forms of it are refused."""

from __future__ import annotations

import asyncio
import random
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

import settings_reference
from configuring import file_of, in_file, put
from conftest import NOISE, Server, make_home, running_server, wait_until
from dia_server.config_file import Sources, load_settings
from dia_server.errors import BadInput, Conflict
from dia_server.services.configuration import Configuration
from dia_server.settings import RESTART, SECRETS, Settings


@pytest.fixture(scope="module")
def without_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose settings are those of the environment; it has no file of them."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in NOISE.items():
            environment.setenv(f"DIA_SERVER_{name.upper()}", yaml.safe_dump(value, default_flow_style=True))
        environment.setenv("DIA_SERVER_READ_AHEAD", "5")
        with running_server(tmp_path_factory.mktemp("without_file")) as running:
            yield running


@pytest.fixture
def server(without_file: Server) -> Iterator[Server]:
    """The same, and what a test changes lasts no longer than the test."""
    before = without_file.get("/config").json()
    yield without_file
    # It may not be valid any more.
    file_of(without_file).unlink()
    after = without_file.get("/config").json()
    changed = {name: value for name, value in before.items() if value != after[name]}
    assert put(without_file, **changed).status_code == 200
    file_of(without_file).unlink(missing_ok=True)


def test_comments_and_all_other_lines_stay(server: Server) -> None:
    text = settings_reference.config_yaml() + (
        "\nengine:   'noise'   # ours\nlanes:\n  speech: {models: [noise], processes: 1}\n  # one is enough\n"
        "\nmax_clips: 9  # few\nauto_transcribe: off\n# the end"
    )
    file_of(server).write_text(text)
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


def test_what_the_environment_sets_is_refused(server: Server) -> None:
    file_of(server).write_text("read_ahead: 4\n")
    answer = put(server, read_ahead=6)
    assert answer.status_code == 400
    assert "DIA_SERVER_READ_AHEAD, which would win again" in answer.json()["detail"]
    assert put(server, read_ahead=5, max_clips=6).status_code == 200
    assert (in_file(server)["read_ahead"], in_file(server)["max_clips"]) == (4, 6)
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


def test_a_home_without_a_file_gets_one(server: Server) -> None:
    assert put(server, max_queue=100).status_code == 200
    assert not file_of(server).exists()
    assert put(server, max_queue=101).status_code == 200
    assert file_of(server).read_text() == "max_queue: 101\n"


@pytest.mark.parametrize("kills", [4, pytest.param(10, marks=pytest.mark.soak)])
def test_kills_leave_a_whole_file(tmp_path: Path, kills: int) -> None:
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

    for _ in range(kills):
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


def test_what_is_edited_by_hand_meanwhile_stays(server: Server) -> None:
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
        ('"max_queue": !!int "5"\n', "max_queue: 7\n"),
        ("\ufeffmax_queue: 5\n", "\ufeffmax_queue: 7\n"),
        ("---\nmax_queue: 5\n", "---\nmax_queue: 7\n"),
        ("# max_queue: 3\nport: 1\n", "# max_queue: 3\nmax_queue: 7\nport: 1\n"),
        ("engine: >-\n  auto\n\n# end\n", "engine: >-\n  auto\n\n# end\nmax_queue: 7\n"),
        ("lanes:\n  speech:\n    models: [noise]\n#max_queue: 1\n    processes: 2\n", None),
        ("max_queue: 1\nmax_queue: 2\n", None),
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
