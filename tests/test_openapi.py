"""The OpenAPI document says what the routes do: schemathesis sends what it allows and what it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import NOISE, make_home, running_server

KEY = "sk-0123456789"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "unsupported_method",
    "ignored_auth",
)


# What leads from one route to another goes first, since the others also send DELETE to all lists.
PHASES = ("stateful", "examples,coverage,fuzzing")
# Paths that lead where those without /v1 lead too.
AGAIN = "^/v1/(?!audio|models)"


def run_schemathesis(
    home: Path,
    settings: dict[str, Any],
    headers: dict[str, str],
    examples: int,
    phases: Sequence[str] = PHASES,
    without: Sequence[str] = (),
) -> None:
    noise = {**NOISE, "voice_aliases": {"alloy": "static"}, "index_tts": {"model": "noise"}}
    file = make_home(home, {**noise, **settings}) / "config.yaml"
    # A file in braces is not changed, so that no setting that is sent spoils the rest.
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()), default_flow_style=True))
    with running_server(home) as server:
        server.headers |= headers
        server.wait_until_ready()
        for number in range(3):
            body = {"text": "Hello.", "voice_id": "static", "seed": number}
            assert server.post("/generate", body).status_code == 200
            assert server.post("/generate?async_mode=true", body).status_code == 200
            task = {"text": "Hello.", "spk_audio_prompt": "examples/voice_01.wav", "seed": number}
            assert server.post("/tts", {"params": task}).status_code == 200
        for phase in phases:
            command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/schema/openapi.json"]
            command += ["--phases", phase, "--checks", ",".join(CHECKS), "--max-examples", str(examples)]
            command += ["--seed", "1", *(f"--exclude-path-regex={paths}" for paths in without)]
            for name, value in headers.items():
                command += ["--header", f"{name}: {value}"]
            found = subprocess.run(command, capture_output=True, text=True, cwd=home, check=False)
            assert found.returncode == 0, found.stdout
        assert '"status":500' not in server.log()


def test_routes_answer_as_documented(tmp_path: Path) -> None:
    run_schemathesis(tmp_path, {}, {}, examples=3, without=[AGAIN])


def test_closed_routes_answer_as_documented(tmp_path: Path) -> None:
    # Behind the keys lies the same; that all of it is closed is told by few requests.
    phases = ("stateful", "fuzzing")
    run_schemathesis(tmp_path, {"api_keys": [KEY]}, {"Authorization": f"Bearer {KEY}"}, examples=1, phases=phases)


@pytest.mark.soak
@pytest.mark.parametrize("keys", [[], [KEY]])
def test_routes_answer_as_documented_for_long(tmp_path: Path, keys: list[str]) -> None:
    headers = {"Authorization": f"Bearer {KEY}"} if keys else {}
    run_schemathesis(tmp_path, {"api_keys": keys}, headers, examples=300)
