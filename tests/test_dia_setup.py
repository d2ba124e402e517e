"""Dia before its first word: its own settings, its memory, and who speaks where it can't."""

from __future__ import annotations

import io
import json
import re
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from conftest import Server, make_home, needs_dia, running_server, wait_until
from dia_server.config_file import load_settings
from dia_server.errors import ModelUnavailable, SettingsError
from dia_server.models.dia import DiaSetup
from dia_server.models.dia.memory import GRAPHS, RESERVE, need_of
from dia_server.models.memory import Need, grant, granted, measure
from dia_server.services.model_names import check_models
from dia_setup import HELLO, WEIGHTS, Tiny, folders, load, run, state

pytestmark = needs_dia

GB = 1_000_000_000


@pytest.fixture(scope="module")
def speaking(tiny_dia: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = make_home(tmp_path_factory.mktemp("dia"), folders(tiny_dia, slots=4))
    with running_server(home) as server:
        server.wait_until_ready()
        yield server


def test_dia_speaks_from_a_folder(speaking: Server) -> None:
    answer = speaking.speak(HELLO, seed=1, response_format="wav")
    assert (answer.status_code, answer.headers["x-model"]) == (200, "dia")
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getframerate(), file.getnframes() > 0) == (44_100, True)


def test_all_slots_of_the_settings_are_there(speaking: Server) -> None:
    (worker,) = [worker for worker in speaking.workers() if worker["lane"] == "speech"]
    assert worker["slots"] == {"dia": 4}


def test_health_names_the_default_model(speaking: Server) -> None:
    health = speaking.get("/health").json()
    assert (health["default_model"], health["default_reason"]) == ("dia", "`engine` in the settings names it")
    assert health["fingerprints"]["dia"].startswith("dia-")


def test_what_a_request_can_have_anyway_is_not_called_unused(speaking: Server) -> None:
    unused = {
        wanted: speaking.speak(HELLO, seed=1, use_torch_compile=wanted).headers.get("x-unused-parameters", "")
        for wanted in (True, False)
    }
    assert "use_torch_compile" in unused[True]
    assert "use_torch_compile" not in unused[False]


def test_by_itself_the_embedded_model_speaks_and_health_says_why(server: Server) -> None:
    health = server.get("/health").json()
    assert health["default_model"] == "hibari"
    assert health["default_reason"].startswith("not 'dia': it wants a GPU")
    assert "default model" in server.log()


def test_without_weights_the_next_step_is_named(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path / "home", {"engine": "dia"})) as server:
        wait_until(lambda: server.workers()[0]["state"] == "up")
        assert server.get("/health").json()["status"] == "degraded"
        answer = server.speak(HELLO)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
        message = answer.json()["error"]["message"]
        assert message.startswith(f"Model 'dia' can't be loaded: its weights ({WEIGHTS}) are not here; fetch them:")
        assert "`dia-server models pull dia`" in message


def test_say_with_dia_names_the_next_step_where_it_is_not_here(tmp_path: Path) -> None:
    said = run(tmp_path, "say", "[S1] Hello.", "--model", "dia", "-o", str(tmp_path / "hello.wav"))
    assert said.returncode == 1
    assert "fetch them: `dia-server models pull dia`" in said.stderr
    assert not (tmp_path / "hello.wav").exists()


@pytest.fixture
def without_torch(tmp_path: Path) -> str:
    """A folder for PYTHONPATH with which PyTorch is not installed."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from importlib.machinery import PathFinder\n"
        "find = PathFinder.find_spec\n"
        "PathFinder.find_spec = lambda name, *rest: None if name.startswith('torch') else find(name, *rest)\n"
    )
    return str(folder)


def test_without_the_extra_its_command_is_named(tmp_path: Path, without_torch: str) -> None:
    words = "its packages are not installed (torch); `pip install 'dia-server[dia]'` brings them"
    said = run(tmp_path, "say", HELLO, "--model", "dia", "-o", str(tmp_path / "hello.wav"), PYTHONPATH=without_torch)
    assert said.returncode == 1
    assert words in said.stderr
    assert "Traceback" not in said.stderr
    told = run(make_home(tmp_path / "home", {"engine": "dia"}), "doctor", PYTHONPATH=without_torch)
    assert told.returncode == 1
    assert re.search(
        r"!! +│ model dia +│ not installed: torch +│ if you want it: pip install 'dia-server\[dia\]'", told.stdout
    )


def test_the_log_tells_when_a_model_begins_to_load_and_how_long_it_took(speaking: Server) -> None:
    lines = [json.loads(line) for line in speaking.log().splitlines() if '"model":"dia"' in line]
    begun, done = (line for line in lines if line["event"] in ("loading model", "model loaded"))
    assert (begun["event"], begun["worker"], begun["device"]) == ("loading model", "speech-0", "cpu")
    assert (done["event"], done["worker"]) == ("model loaded", "speech-0")
    assert done["seconds"] > 0


def change_engine(server: Server, engine: str) -> int:
    return httpx.put(f"{server.url}/config", json={"engine": engine}, timeout=60).status_code


def test_auto_stays_with_the_model_that_the_server_was_started_with(speaking: Server) -> None:
    assert change_engine(speaking, "auto") == 200
    health = speaking.get("/health").json()
    assert health["default_model"] == "dia"
    assert health["default_reason"].startswith("`engine` was 'dia' when the server started")
    assert speaking.speak(HELLO, seed=1).headers["x-model"] == "dia"
    assert change_engine(speaking, "dia") == 200


def test_a_model_that_does_not_fit_says_how_many_slots_would(tiny_dia: Tiny) -> None:
    words = (
        r"with 1000000 slots needs 4196.* of memory are free for each worker.*set `slots` under `models: dia:` to \d+"
    )
    with pytest.raises(ModelUnavailable, match=words):
        load(tiny_dia, slots=1_000_000)


def test_a_gpu_that_pytorch_cannot_use_is_no_reason_for_the_processor(
    tiny_dia: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelUnavailable, match="can't use the GPU here; install the one for its driver"):
        load(tiny_dia)


def test_doctor_tells_of_more_slots_than_there_could_be(tiny_dia: Tiny, tmp_path: Path) -> None:
    told = run(make_home(tmp_path, folders(tiny_dia, slots=100_000)), "doctor", CUDA_VISIBLE_DEVICES="")
    assert told.returncode == 1
    words = r"with 100000 slots needs .*set `slots` under `models: dia:` to \d+"
    assert re.search(f"!! +│ model dia +│ .*{words}", told.stdout)
    assert re.match(r"ready; takes 2\.\d GB of memory", state(tiny_dia, slots=4))


def test_doctor_tells_of_a_setting_that_is_wrong(tmp_path: Path) -> None:
    told = run(make_home(tmp_path, {"models": {"dia": {"dtype": "int8"}}}), "doctor")
    assert told.returncode == 1
    assert "allowed are auto, bfloat16, float16, float32" in told.stdout
    assert "database" in told.stdout


def test_workers_that_load_at_the_same_time_share_the_memory(
    tiny_dia: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_MEMORY", "")
    grant(3 * GB)
    assert granted() == 3 * GB
    with pytest.raises(
        ModelUnavailable, match=r"and 3\.0 GB of memory are free for each worker, in which \d+ slots fit"
    ):
        load(tiny_dia, slots=1_000)
    # As many as one of two workers finds room for, were the other one not there.
    need = need_of(DiaSetup(slots=0), *tiny_dia, "cpu")
    slots = need.slots_in(measure() * 2 // 3)
    lanes = {"speech": {"processes": 2}}
    with running_server(make_home(tmp_path, {"lanes": lanes, **folders(tiny_dia, slots=slots)})) as server:
        wait_until(lambda: all(worker["errors"] for worker in server.workers() if worker["lane"] == "speech"))
        for worker in server.workers():
            if worker["lane"] == "speech":
                assert "are free for each worker" in worker["errors"]["dia"]


def test_memory_is_told_from_the_files(tiny_dia: Tiny) -> None:
    from safetensors.torch import load_file

    model, codec = (
        {name: t.numel() for name, t in load_file(folder / "model.safetensors").items()} for folder in tiny_dia
    )
    head, rest = model["logits_dense.weight"], sum(model.values())
    need = need_of(DiaSetup(slots=3), *tiny_dia, "cuda")
    assert need.weights == 2 * rest + 2 * head + 4 * sum(codec.values())
    assert need.total == need.weights + 3 * need.slot + RESERVE + GRAPHS
    assert need_of(DiaSetup(), *tiny_dia, "cpu").reserve == RESERVE, "there are none but on a GPU"


def test_memory_counts_slots() -> None:
    need = Need(model="dia", weights=4 * GB, slot=GB // 2, slots=32, reserve=2 * GB)
    need.check(need.total, "of memory are free")
    assert [need.slots_in(free) for free in (need.total, need.total - 1, 7 * GB, 5 * GB)] == [32, 31, 2, 0]
    with pytest.raises(ModelUnavailable, match=r"needs 22\.0 GB .* 2 slots fit; set `slots` under `models: dia:` to 2"):
        need.check(7 * GB, "of memory are free")
    with pytest.raises(ModelUnavailable, match="0 slots fit; free some, have fewer workers, or use another machine"):
        need.check(5 * GB, "of memory are free")


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("{dai: {}}", "model 'dai' is not installed; installed are .*dia"),
        ("{dia: {slot: 4}}", "models.dia: .*unknown field `slot`; the settings of model 'dia' are: weights, revision"),
        ("{dia: {slots: 0}}", r"models\.dia: .*>= 1 - at `\$\.slots`"),
        ("{dia: {dtype: int8}}", r"models\.dia: .*'int8'.*dtype.*allowed are auto, bfloat16, float16, float32;"),
        ("{dia: {weights: dia}}", r"models\.dia: .*`\$\.weights`"),
        ("{dia: {revision: main}}", r"models\.dia: .*`\$\.revision`"),
        ("{hibari: {slots: 4}}", "the settings of model 'hibari' are: none"),
    ],
)
def test_wrong_settings_of_a_model_stop_the_start(models: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        check_models(load_settings(None, {"DIA_SERVER_MODELS": models}))
