"""The script that holds any Dia server to its word about seeds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conftest import NOISE, Server, make_home, running_server

SCRIPT = Path(__file__).parent.parent / "scripts" / "test_seed_functionality.py"


def check(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DIA_API_KEY"}
    command = [sys.executable, str(SCRIPT), "--url", url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


class StandIn(BaseHTTPRequestHandler):
    """Some other Dia server, since the script is for any: it knows jobs, and tells no seeds.

    Its clips depend on the seed alone, and on chance where `wavering` says so.
    """

    protocol_version = "HTTP/1.1"
    wavering = False
    jobs: dict[str, list[bytes | None]]

    def do_GET(self) -> None:
        if self.path == "/voices":
            self._send({"voices": [{"id": "somebody"}]})
            return
        steps = self.jobs[self.path.split("/")[2]]
        if not self.path.endswith("/result"):
            self._send({"status": "completed" if steps[0] else "processing"})
        elif steps[0]:
            self._send(steps[0])
        else:
            steps.pop(0)
            self._send({"detail": "Job not completed (status: processing)"}, 425)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        clip = hashlib.blake2b(str(body["seed"]).encode()).digest()
        if self.wavering:
            clip += random.randbytes(1)
        if "async_mode=true" in self.path:
            self.jobs["7"] = [None, None, clip]
            self._send({"job_id": "7", "status": "pending", "message": "Job queued for processing"})
        else:
            self._send(clip)

    def _send(self, content: Any, status: int = 200) -> None:
        is_audio = isinstance(content, bytes)
        data = content if is_audio else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "audio/wav" if is_audio else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stand_in(*, wavering: bool) -> Iterator[str]:
    handler = type("Handler", (StandIn,), {"wavering": wavering, "jobs": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{other.server_port}"
        finally:
            other.shutdown()
            thread.join()


def test_this_server_keeps_its_word(server: Server) -> None:
    checked = check(f"{server.url}/v1/", "--voice", "skylark")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "FAIL" not in checked.stdout
    assert len([line for line in checked.stdout.splitlines() if line.startswith("ok ")]) >= 7


def test_a_server_with_jobs_keeps_its_word() -> None:
    with stand_in(wavering=False) as url:
        checked = check(url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    lines = checked.stdout.splitlines()
    assert lines[0].endswith("voice somebody")
    assert any("async_mode" in line and line.startswith("ok ") for line in lines)
    assert sum("its answer has no X-Seed" in line for line in lines) == 2


def test_one_byte_of_chance_is_found() -> None:
    with stand_in(wavering=True) as url:
        checked = check(url)
    assert checked.returncode == 1
    failed = [line for line in checked.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 5
    assert all("differ from byte 64 on" in line for line in failed)


def test_what_keeps_it_from_checking_is_said(tmp_path: Path) -> None:
    unreachable = check("http://127.0.0.1:1")
    assert (unreachable.returncode, unreachable.stdout) == (1, "")
    assert "can't be reached" in unreachable.stderr
    with running_server(make_home(tmp_path, NOISE | {"api_keys": ["secret"]})) as closed:
        assert "Give one with --api-key" in check(closed.url).stderr
        assert "Voice 'nobody' not found" in check(closed.url, "--api-key", "secret", "--voice", "nobody").stdout


@pytest.mark.parametrize("words", ["Examples:", "--voice", "DIA_API_KEY"])
def test_its_help_teaches(words: str) -> None:
    assert words in check("http://localhost", "--help").stdout
