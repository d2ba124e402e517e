"""Models that are programs of their own, behind a server that starts them."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import index_tts
from conftest import Server, make_home, running_server, wait_until
from dia_server.pool.choice import Choice
from dia_server.settings import Lane, Settings
from programs import RATE, RUDE, marked

PAGE = (Path(__file__).parent.parent / "docs" / "programs.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's example."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


@pytest.fixture(scope="module")
def served(interpreter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the page's program, as the page sets it up, and the rude one."""
    folder = tmp_path_factory.mktemp("programs")
    models = yaml.safe_load(block("yaml"))["models"]
    assert models["tone"]["command"] == ["venv/bin/python", "tone.py"]
    (folder / "tone.py").write_text(block("python"), encoding="utf-8")
    (folder / "venv").symlink_to(Path(interpreter).parent.parent)
    models["tone"]["folder"] = str(folder)
    models["rude"] = {
        "command": [interpreter, str(RUDE)],
        "sample_rate": RATE,
        "environment": {"RUDE_MARK": str(folder / "mark"), "RUDE_START": "0.5"},
        "beat_seconds": 1.0,
        "options": {"temperature": 1.0},
    }
    home = make_home(folder / "home", {"models": models, "task_strikes": 1})
    for name, options in {"high": {"pitch": 880}, "odd": {"pitch": "high"}}.items():
        (home / "voices" / f"{name}.yaml").write_text(yaml.safe_dump({"models": {"tone": options}}), encoding="utf-8")
    with running_server(home) as server:
        yield server


def ask(server: Server, model: str, text: str, **fields: Any) -> Any:
    return server.speak(text, model=model, response_format="wav", **{"seed": 1, **fields})


def test_the_page_makes_a_model(served: Server) -> None:
    answer = ask(served, "tone", "Hello there.")
    assert (answer.status_code, answer.headers["x-model"]) == (200, "tone")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getframerate(), file.getnframes()) == (22_050, 12 * 22_050 // 15)
    assert ask(served, "tone", "Hello there.").content == answer.content
    assert ask(served, "tone", "Hello there.", seed=2).content != answer.content


def test_voices_have_its_options(served: Server) -> None:
    assert ask(served, "tone", "Hello.", voice="high").content != ask(served, "tone", "Hello.").content
    refused = ask(served, "tone", "Hello.", voice="odd")
    assert (refused.status_code, "pitch" in refused.json()["error"]["message"]) == (400, True)


def test_requests_have_those_of_its_options_that_the_route_knows(served: Server) -> None:
    mark = served.home.parent / "mark"
    mark.unlink(missing_ok=True)
    answer = ask(served, "rude", "Tell.", temperature=0.5, top_p=0.5)
    assert answer.headers["x-unused-parameters"] == "top_p"
    assert json.loads(mark.read_text())["order"]["options"] == {"temperature": 0.5}


def test_the_lists_have_it(served: Server) -> None:
    assert {"tone", "rude"} <= {model["id"] for model in served.get("/v1/models").json()["data"]}


def test_a_text_that_ends_its_program_is_given_up_and_others_are_said(served: Server) -> None:
    answer = ask(served, "rude", "Die.")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "generation_failed")
    assert "Workers with the model 'rude' die of this input" in answer.json()["error"]["message"]
    assert "exit status 137" in served.log()
    assert ask(served, "rude", "Speak.").status_code == 200


def test_tasks_whose_model_dies_of_all_fail(interpreter: str, tmp_path: Path) -> None:
    rude = {"command": [interpreter, str(RUDE)], "sample_rate": RATE}
    settings = {"models": {"rude": rude}, "crash_loop_deaths": 2, "crash_loop_wait": 0.3, "job_max_attempts": 2}
    with running_server(make_home(tmp_path / "home", settings)) as server:
        die = {"text": "Die.", "spk_audio_prompt": "skylark", "model": "rude"}
        found = [index_tts.ended(server, task_id) for task_id in [index_tts.submit(server, die) for _ in range(3)]]
        assert [each["status"] for each in found] == ["error"] * 3
        assert any("All workers of lane 'rude' die at start" in each["error"] for each in found)
        said = index_tts.submit(server, die | {"model": "hibari"})
        assert index_tts.ended(server, said)["status"] == "done"


def test_a_task_goes_on_where_its_program_died_once(served: Server) -> None:
    assert ask(served, "rude", "Stumble.").content == ask(served, "rude", "Speak.").content


def test_a_program_that_hangs_is_killed_and_started_anew(served: Server) -> None:
    answer = ask(served, "rude", "Hang.")
    assert answer.json()["error"]["code"] == "generation_failed"
    assert "makes no progress, killed" in served.log()
    # Longer than its bound, but it beats.
    assert ask(served, "rude", "Work.").status_code == 200


def test_the_program_ends_with_its_worker(served: Server) -> None:
    mark = served.home.parent / "mark"
    mark.unlink(missing_ok=True)
    with served.waiting_client("/v1/audio/speech", {"input": "Multiply.", "voice": "skylark", "model": "rude"}):
        wait_until(lambda: len(marked(mark)) == 2)
        started = marked(mark)
        (worker,) = [worker for worker in served.workers() if worker["lane"] == "rude"]
        os.kill(worker["pid"], 9)
        wait_until(lambda: not any(map(psutil.pid_exists, started)))


def test_a_program_that_can_not_be_started_says_why(interpreter: str, tmp_path: Path) -> None:
    models = {"tone": {"command": [interpreter, "gone.py"], "sample_rate": RATE}}
    with running_server(make_home(tmp_path / "home", {"models": models})) as server:
        answer = ask(server, "tone", "Hello.")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        assert "gone.py" in answer.json()["error"]["message"]
        params = {"text": "Hello.", "spk_audio_prompt": "examples/voice_01.wav", "model": "tone"}
        task_id = server.post("/tts", {"params": params}).json()["task_id"]
        wait_until(lambda: server.get(f"/tts/{task_id}").json()["status"] == "error")
        assert "gone.py" in server.get(f"/tts/{task_id}").json()["error"]


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"command": ["venv/bin/python"]}, "venv/bin/python"),
        ({"command": ["python3"], "folder": "/nowhere"}, "/nowhere"),
    ],
)
def test_a_program_that_is_not_there_is_not_ready(setup: dict[str, Any], words: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {"models": {"tone": {"sample_rate": RATE, **setup}}})
    listed = subprocess.run(
        [sys.executable, "-m", "dia_server", "models", "--home", str(home)],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    assert words in next(line for line in listed.splitlines() if "tone" in line)


@pytest.mark.parametrize(
    ("setup", "words"),
    [
        ({"command": [], "sample_rate": RATE}, "models.tone: .*length >= 1 - at `$.command`"),
        ({"command": ["tone"]}, "models.tone: .*missing required field `sample_rate`"),
        ({"command": ["tone"], "sample_rate": RATE, "options": {"Not a name": 1}}, "models.tone: .*options"),
        ({"comand": ["tone"]}, "model 'tone' is not installed"),
    ],
)
def test_a_program_that_is_described_wrongly_stops_the_start(tmp_path: Path, setup: dict[str, Any], words: str) -> None:
    home = make_home(tmp_path / "home", {"models": {"tone": setup}})
    command = [sys.executable, "-m", "dia_server", "serve", "--home", str(home), "--port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.search(words.replace("$", r"\$"), ended.stderr.replace("\n", " "))


def test_a_lane_without_the_default_model_begins_with_one_that_can_be_loaded() -> None:
    choice, settings = Choice("tone"), Settings(engine="tone")
    assert choice.arranged(Lane(models=("index-tts2", "noise", "decoder")), settings).models[0] == "noise"


def test_what_a_killed_worker_left_is_swept_by_a_later_start(tmp_path: Path) -> None:
    from dia_server.home import open_home

    home = make_home(tmp_path / "home")
    old, new = (home / "cache" / "tmp" / f".program-{name}.part" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "speech.wav").touch()
    os.utime(old, (time.time() - 7_200,) * 2)
    open_home(home)
    assert (old.exists(), new.exists()) == (False, True)
