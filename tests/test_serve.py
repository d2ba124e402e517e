"""The server process itself: how it starts, stops, and says what is wrong."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from conftest import NOISE, START_SECONDS, make_home, running_server, wait_until

COMMAND = [sys.executable, "-m", "dia_server"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False, env=os.environ | environment
    )


# What happens while Python itself starts is not ours.
STARTED = "from dia_server.cli import main; print('started', flush=True); main()"


@pytest.mark.parametrize(
    ("number", "after"),
    [(signal.SIGINT, 0.1), (signal.SIGTERM, 0.4), (signal.SIGINT, 0.7), (signal.SIGTERM, 1.0)],
)
def test_a_signal_at_start_ends_the_server_and_its_workers(
    tmp_path: Path, number: signal.Signals, after: float
) -> None:
    command = [sys.executable, "-c", STARTED, "serve", "--home", str(tmp_path), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(after)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, errors = process.communicate(timeout=START_SECONDS)
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(workers, timeout=START_SECONDS)
    assert alive == []


def test_a_drained_server_exits_with_success(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path)) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=START_SECONDS) == 0
        # onnxruntime's telemetry keeps its session there.
        assert list((server.home / "cache" / "tmp").iterdir()) == []


def test_a_slow_reader_of_a_file_that_is_made_outlasts_the_drain(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE)) as server:
        server.wait_until_ready()
        # 22 MB, more than the sockets hold.
        body = {"input": "Long texts have slow readers. " * 130, "voice": "static", "model": "noise", "seed": 1}
        body["response_format"] = "wav"
        quiet = server.post("/v1/audio/speech", body).content
        with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=60) as running:
            pieces = running.iter_raw()
            heard = next(pieces)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(2.5)
            heard += b"".join(pieces)
        assert heard == quiet
        assert server.process.wait(timeout=START_SECONDS) == 0


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    make_home(tmp_path)
    command = [*COMMAND, "serve", "--home", str(tmp_path), "--port", "0"]
    with full.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    with process.stdout:
        url = process.stdout.readline().split()[-1]
        for _ in range(2):
            body = {"input": "Hello there.", "voice": "skylark"}
            assert httpx.post(f"{url}/v1/audio/speech", json=body, timeout=20).status_code == 200
            for worker in httpx.get(f"{url}/workers", timeout=20).json()["workers"]:
                if worker["pid"]:
                    os.kill(worker["pid"], signal.SIGKILL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=START_SECONDS) == 0


def test_a_port_in_use_is_refused_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = run("serve", "--home", str(tmp_path), "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 1
    assert "Address already in use" in refused.stderr
    assert "--port" in refused.stderr


def test_of_two_servers_that_start_on_a_port_at_once_one_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [*COMMAND, "serve", "--port", port, "--home"]
    homes = [make_home(tmp_path / name, NOISE) for name in ("one", "other")]
    servers = [subprocess.Popen([*command, str(home)], stderr=subprocess.PIPE, text=True) for home in homes]
    wait_until(lambda: any(server.poll() is not None for server in servers))
    refused, running = sorted(servers, key=lambda server: server.poll() is None)
    assert refused.communicate()[1].startswith(f"Error: Can't listen on 127.0.0.1:{port}: Address already in use")
    assert refused.returncode == 1
    wait_until(lambda: answers(f"http://127.0.0.1:{port}/health"))
    running.terminate()
    running.communicate(timeout=START_SECONDS)
    assert running.returncode == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"DIA_SERVER_ENGINE": "nosuch"}, "engine: model 'nosuch' is not installed; installed are dia, hibari"),
        (
            {"DIA_SERVER_ENGINE": "decoder"},
            "engine: model 'decoder' is not installed; installed are dia",
        ),
        ({"DIA_SERVER_LANES": "{}"}, "length >= 1"),
        ({"DIA_SERVER_LANES": "{speech: {models: [hibari, nosuch]}}"}, "lanes.speech: model 'nosuch'"),
        ({"DIA_SERVER_LANES": "{speech: {models: []}}"}, "`models` must name at least one"),
        ({"DIA_SERVER_PORT": "high"}, "Expected `int`, got `str` - at `$.port`"),
        ({"DIA_SERVER_HOST": "2024-13-45"}, "DIA_SERVER_HOST is not valid YAML"),
        ({"DIA_SERVER_NOSUCH": "1"}, "unknown field `nosuch`"),
        ({"DIA_SERVER_HOST": "no.such.host.invalid"}, "Can't listen on no.such.host.invalid"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    refused = run("serve", "--home", str(tmp_path), **environment)
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_address_of_the_newer_protocol(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path, NOISE), "--host", "::1") as server:
        assert server.url.startswith("http://localhost:")
        port = server.url.rpartition(":")[2]
        server.url = f"http://[::1]:{port}"
        assert server.get("/health").status_code == 200
