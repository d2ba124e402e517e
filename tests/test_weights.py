"""Weights that don't come with a package: fetched, checked, and asked for clearly where they are missing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from conftest import Server
from dia_server.errors import DownloadFailed
from dia_server.models.download import fetch
from dia_server.models.hibari import bases
from dia_server.models.protocol import Download

WEIGHTS = os.urandom(200_000)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.onnx").write_bytes(WEIGHTS)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def download(url: str, path: Path, sha256: str = hashlib.sha256(WEIGHTS).hexdigest()) -> Download:
    return Download(
        name="w", description="some weights", licence="MIT", url=url, path=path, size=len(WEIGHTS), sha256=sha256
    )


def test_weights_come_whole(url: str, tmp_path: Path) -> None:
    path, steps = tmp_path / "cache" / "deep" / "weights.onnx", []
    fetch(download(f"{url}/weights.onnx", path), steps.append)
    assert path.read_bytes() == WEIGHTS
    assert sum(steps) == len(WEIGHTS)


@pytest.mark.parametrize(
    ("name", "sha256", "words"),
    [("weights.onnx", "0" * 64, "has changed"), ("nothing.onnx", "0" * 64, "404")],
)
def test_other_weights_are_not_kept(url: str, tmp_path: Path, name: str, sha256: str, words: str) -> None:
    path = tmp_path / "cache" / "weights.onnx"
    with pytest.raises(DownloadFailed, match=words):
        fetch(download(f"{url}/{name}", path, sha256), lambda _: None)
    assert list(path.parent.iterdir()) == []


def test_without_a_connection_the_place_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    with pytest.raises(DownloadFailed, match=f"copy the file to {path} by hand"):
        fetch(download("http://127.0.0.1:9/weights.onnx", path), lambda _: None)


def test_pull_shows_licences_and_says_what_to_do_offline(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dia_server", "models", "pull", "hibari", "--home", str(tmp_path)]
    # A proxy that nobody listens at stands for no connection, wherever the test runs.
    environment = os.environ | {"https_proxy": "http://127.0.0.1:9"}
    pulled = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert pulled.returncode == 1
    assert "emma: British female voice, 7.9 MB, Apache-2.0" in pulled.stdout
    assert "Check the connection" in pulled.stderr
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.fixture
def british(server: Server) -> Iterator[Server]:
    """The shared server with a voice that wants weights besides."""
    voice = server.home / "voices" / "british.yaml"
    voice.write_text(yaml.safe_dump({"models": {"hibari": {"base": "emma"}}}))
    yield server
    voice.unlink()


def test_a_voice_whose_base_is_missing_says_how_to_get_it(british: Server) -> None:
    refused = british.speak(voice="british")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert refused.headers["x-should-retry"] == "false"
    assert "dia-server models pull hibari" in refused.json()["error"]["message"]
    assert british.speak().status_code == 200


def deaths(server: Server) -> int:
    return sum(worker["deaths"] for worker in server.workers())


def test_damaged_weights_harm_only_their_voice(british: Server) -> None:
    before = deaths(british)
    place = british.home / "cache" / "hibari" / bases()["emma"].file.path.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(WEIGHTS)
    for _ in range(3):
        failed = british.speak(voice="british")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "generation_failed")
        assert "is damaged; delete it and fetch it again" in failed.json()["error"]["message"]
    assert british.speak().status_code == 200
    assert deaths(british) == before
    place.unlink()
