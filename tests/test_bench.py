"""`dia-server bench`: what it tells of a server, and what it says of one that it can't measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sound
from conftest import Server, make_home, running_server


def bench(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DIA_API_KEY"}
    return subprocess.run(
        [sys.executable, "-m", "dia_server", "bench", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment | {"COLUMNS": "100"} | variables,
    )


def figures(folder: Path, *arguments: str) -> dict[str, Any]:
    """What it writes for machines."""
    file = folder / "figures.json"
    measured = bench(*arguments, "--json", str(file))
    assert measured.returncode == 0, measured.stderr
    content: dict[str, Any] = json.loads(file.read_text())
    return content


def test_figures_of_this_server(server: Server, tmp_path: Path) -> None:
    report = figures(tmp_path, server.url, "--clients", "1,3", "--requests", "6", "--text", "Good morning.")
    assert report["url"] == f"{server.url}/v1/audio/speech"
    assert report["request"]["input"] == "Good morning."
    assert [(level["clients"], level["clips"], level["others"]) for level in report["levels"]] == [
        (1, 6, {}),
        (3, 6, {}),
    ]
    for level in report["levels"]:
        assert level["clips_per_second"] == pytest.approx(6 / level["seconds"])
        assert level["audio_seconds_per_second"] == pytest.approx(level["audio_seconds"] / level["seconds"])
        for name in ("first_byte_seconds", "clip_seconds", "real_time_factor"):
            assert 0 < level[name]["p50"] <= level[name]["p95"] <= level[name]["p99"]
        assert level["first_byte_seconds"]["p50"] <= level["clip_seconds"]["p50"] < level["seconds"]
        assert level["real_time_factor"]["p50"] < 1
        assert level["client_load"] > 0


@pytest.mark.parametrize("audio_format", sound.FORMATS)
def test_clips_of_every_format_are_as_long_as_they_sound(server: Server, tmp_path: Path, audio_format: str) -> None:
    report = figures(tmp_path, f"{server.url}/v1", "--clients", "1", "--requests", "1", "--format", audio_format)
    wanted = report["request"]
    clip = server.speak(wanted.pop("input"), **wanted).content
    # Encoders pad the last packet.
    assert report["levels"][0]["audio_seconds"] == pytest.approx(sound.seconds(clip, audio_format), abs=0.1)


def test_the_table_has_a_row_for_each_number_of_clients(server: Server) -> None:
    shown = bench(server.url, "--clients", "2,5", "--seconds", "0.3").stdout
    rows = [line.split() for line in shown.splitlines() if "p50" in line]
    assert [row[0] for row in rows] == ["2", "5"]
    assert all(float(row[2]) > 0 for row in rows)
    assert "of a processor core" in shown


def test_refusals_are_counted_and_not_tried_again(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path / "home", {"requests_per_minute": 3})) as limited:
        level = figures(tmp_path, limited.url, "--clients", "4", "--seconds", "1")["levels"][0]
        log = limited.log().splitlines()
    # One clip is its own, to see whether all is well.
    assert (level["clips"], level["others"]) == (2, {"429": 4})
    assert sum('"status":429' in line for line in log) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--voice", "nobody"], "Voice 'nobody' not found"),
        (["--text", "..."], "nothing to speak"),
        (["--format", "midi"], "formats are wav, mp3, opus, aac, flac, pcm"),
        (["--json", "no/such/folder.json"], "there is no folder no/such"),
        (["--clients", "1,none"], "give one like 1,4,16"),
    ],
)
def test_what_can_not_be_measured_is_explained(server: Server, arguments: list[str], words: str) -> None:
    refused = bench(server.url, *arguments)
    assert refused.returncode in (1, 2)
    assert words in refused.stderr
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr


def test_addresses_that_lead_nowhere_are_explained(server: Server) -> None:
    assert "can't be reached: " in bench("http://127.0.0.1:1").stderr
    assert "give one like http://localhost:7860" in bench("localhost:7860").stderr
    assert "look at --voice, --model and the address" in bench(f"{server.url}/elsewhere").stderr


def test_keys_are_sent(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, {"api_keys": ["secret"]})) as closed:
        refused = bench(closed.url, "--api-key", "wrong")
        assert refused.returncode == 1
        assert "--api-key, or in DIA_API_KEY" in refused.stderr
        assert bench(closed.url, "--clients", "1", "--requests", "1", DIA_API_KEY="secret").returncode == 0


class Other(BaseHTTPRequestHandler):
    """Some other server, which ends its answers by hanging up, every third one too early."""

    requests = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests += 1
        self.send_response(200)
        if self.requests % 3 == 0:
            self.send_header("Content-Length", "96000")
        self.end_headers()
        self.wfile.write(bytes(48_000))

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def other_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Other,), {})) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{other.server_port}"
        finally:
            other.shutdown()
            thread.join()


def test_clips_that_break_off_do_not_count(tmp_path: Path) -> None:
    with other_server() as url:
        level = figures(tmp_path, url, "--clients", "1", "--requests", "3")["levels"][0]
    assert (level["clips"], level["audio_seconds"], level["others"]) == (2, 2.0, {"broken": 1})


def test_its_help_teaches() -> None:
    shown = bench("--help").stdout
    assert "Examples:\n" in shown
    assert "dia-server bench http" in shown
