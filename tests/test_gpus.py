"""GPUs: who gets one, and what happens when one is lost.

Where no GPU is, `stand_ins/pynvml.py` stands in for NVML in the server's processes, over a file of GPUs, and the model
`graphic` for one that computes there: it raises as PyTorch does once its GPU is lost. All else is real.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from cards import GB, HERE, Write, gpu
from conftest import Server, make_home, needs_whisper, running_server, wait_until
from dia_server.pool import nvml

STEADY = {"models": {"graphic": {"event_samples": 2205, "event_seconds": 0.02}}}


def real_gpus() -> int:
    try:
        return sum(not card.problem for card in nvml.find_cards())
    except nvml.NoAnswer:
        return 0


REAL = real_gpus()
without_gpus = pytest.mark.skipif(REAL > 0, reason="there is a GPU here")
on_gpus = pytest.mark.skipif(REAL == 0, reason="NVML finds no GPU here")


def home_with(folder: Path, models: list[str], **settings: Any) -> Path:
    home = make_home(folder / "home", {"lanes": {"speech": {"models": models}}, "crash_loop_wait": 1, **settings})
    (home / "voices" / "steady.yaml").write_text(yaml.safe_dump(STEADY), encoding="utf-8")
    return home


def doctor(home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dia_server", "doctor", "--home", str(home)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "1000"},
    )


def by_id(server: Server) -> dict[str, dict[str, Any]]:
    return {worker["id"]: worker for worker in server.get("/workers").json()["workers"]}


def status(server: Server) -> dict[str, Any]:
    answer = server.get("/gpu/status")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def speak(server: Server) -> bytes:
    answer = server.speak("A sentence that takes its time.", voice="steady", model="graphic", seed=5)
    assert answer.status_code == 200
    return answer.content


@without_gpus
def test_without_a_gpu_the_processor_speaks_and_the_status_says_so(server: Server) -> None:
    assert status(server) == {
        "gpu_mode": "cpu",
        "gpu_count": 0,
        "allowed_gpus": [],
        "use_multi_gpu": False,
        "models_loaded": {"cpu": True},
        "gpu_memory": {},
    }
    assert server.get("/v1/gpu/status").json() == status(server)
    assert {worker["device"] for worker in server.workers()} == {"cpu"}


def test_in_mode_cpu_no_worker_sees_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE / "plugin"), prepend=":")
    monkeypatch.setenv(nvml.VISIBLE, "0")
    with running_server(home_with(tmp_path, ["mirror"], gpu_mode="cpu")) as server:
        server.wait_until_ready(1)
        assert by_id(server)["speech-0"]["fingerprints"] == {"mirror": "sees ''"}
        assert status(server)["gpu_mode"] == "cpu"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gpu_mode": "single"}, "`gpu_mode` is single, but the GPUs here are: none"),
        ({"gpu_mode": "multi"}, "`gpu_mode` is multi, but the GPUs here are: none"),
        ({"allowed_gpus": [0, 3]}, "`allowed_gpus` names 0, 3, but the GPUs here are: none"),
    ],
)
def test_gpus_that_are_not_there_stop_the_start(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    home = make_home(tmp_path, settings)
    for command in (["serve", "--port", "0"], ["doctor"]):
        ended = subprocess.run(
            [sys.executable, "-m", "dia_server", *command, "--home", str(home)],
            capture_output=True,
            text=True,
            check=False,
            # Hides those that are.
            env=os.environ | {nvml.VISIBLE: "", "COLUMNS": "1000"},
        )
        assert ended.returncode == 1
        assert words in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr


def test_each_worker_sees_its_own_gpu_and_no_other(
    tmp_path: Path, gpus: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c"))
    monkeypatch.setenv(nvml.VISIBLE, "2,0")
    with running_server(home_with(tmp_path, ["mirror"], workers_per_gpu=2)) as server:
        server.wait_until_ready(4)
        seen = [(worker["device"], worker["fingerprints"]["mirror"]) for worker in server.workers()]
        assert seen == [("gpu_0", "sees 'GPU-c'")] * 2 + [("gpu_1", "sees 'GPU-a'")] * 2


def test_who_gets_which_gpu(tmp_path: Path, gpus: Write) -> None:
    gpus(gpu("GPU-a"), gpu("GPU-b", free=22 * GB))
    lanes = {
        "speech": {"models": ["graphic"]},
        "tools": {"models": ["mirror"], "idle_timeout": 300},
        "workshop": {"models": ["mirror"], "device": "cpu"},
        "quiet": {"models": ["noise"], "processes": 2},
    }
    with running_server(home_with(tmp_path, [], lanes=lanes)) as server:
        server.wait_until_ready(5)
        devices = {name: worker["device"] for name, worker in by_id(server).items()}
        assert devices == {
            "speech-0": "gpu_0",
            "speech-1": "gpu_1",
            "tools-0": None,
            "workshop-0": "cpu",
            "quiet-0": "cpu",
            "quiet-1": "cpu",
            "decode-0": None,
            "index-tts2-0": None,
            "voxcpm-0": None,
        }
        memory = {"allocated_gb": 2.0, "reserved_gb": 3.0, "total_gb": 24.0}
        wait_until(lambda: len(status(server)["gpu_memory"]) == 2)
        assert status(server) == {
            "gpu_mode": "multi",
            "gpu_count": 2,
            "allowed_gpus": [0, 1],
            "use_multi_gpu": True,
            "models_loaded": {"gpu_0": True, "gpu_1": True, "cpu": True},
            "gpu_memory": {"gpu_0": memory | {"free_gb": 20.0}, "gpu_1": memory | {"free_gb": 22.0}},
        }
        # Started on need: where most memory is free.
        assert server.speak(voice="static", model="mirror").status_code == 200
        assert by_id(server)["tools-0"]["device"] == "gpu_1"


def test_a_lost_gpu_takes_its_own_worker_only_and_comes_back(tmp_path: Path, gpus: Write) -> None:
    gpus(gpu("GPU-a"), gpu("GPU-b"))
    with running_server(home_with(tmp_path, ["graphic"])) as server, ThreadPoolExecutor() as clients:
        server.wait_until_ready(2)
        wait_until(lambda: status(server)["models_loaded"] == {"gpu_0": True, "gpu_1": True})
        quiet = speak(server)
        before = by_id(server)["speech-0"]
        heard = [clients.submit(speak, server) for _ in range(4)]
        wait_until(lambda: by_id(server)["speech-1"]["busy"])

        gpus(gpu("GPU-a"), gpu("GPU-b", error="lost"))
        assert {answer.result() for answer in heard} == {quiet}
        wait_until(lambda: by_id(server)["speech-1"]["state"] == "waiting")
        assert server.get("/health").json()["status"] == "degraded"
        assert server.get("/health?ready").status_code == 200
        wait_until(lambda: list(status(server)["gpu_memory"]) == ["gpu_0"])
        assert status(server)["models_loaded"] == {"gpu_0": True, "gpu_1": False}
        assert status(server)["gpu_count"] == 2
        assert speak(server) == quiet

        gpus(gpu("GPU-a"), gpu("GPU-b"))
        wait_until(lambda: status(server)["models_loaded"] == {"gpu_0": True, "gpu_1": True})
        # The next request goes where it shows whether all is well again.
        assert speak(server) == quiet
        assert server.get("/health").json()["status"] == "healthy"
        after = by_id(server)["speech-0"]
        assert (after["pid"], after["deaths"]) == (before["pid"], 0)


def test_doctor_tells_of_a_gpu_that_does_not_answer(tmp_path: Path, gpus: Write) -> None:
    gpus(gpu("GPU-a"), gpu("GPU-b", error="lost"))
    told = doctor(make_home(tmp_path / "home", {"port": 0}))
    assert "0 (Tensor One); GPU 1 does not answer: GPU is lost; used: 0" in told.stdout
    assert "`nvidia-smi` says more" in told.stdout
    assert re.search(r"!! +│ GPUs", told.stdout)
    assert told.returncode == 1
    gpus(gpu("GPU-a"), gpu("GPU-b"))
    assert re.search(r"ok +│ GPUs", doctor(tmp_path / "home").stdout)


def test_gpus_of_several_types_are_told_of_and_a_driver_that_hangs_later_holds_up_nobody(
    tmp_path: Path, gpus: Write
) -> None:
    gpus(gpu("GPU-a"), gpu("GPU-b", name="Tensor Two"))
    with running_server(home_with(tmp_path, ["mirror"])) as server:
        server.wait_until_ready(2)
        assert "GPUs of several types: a seed's bytes depend on which one speaks" in server.log()
        assert "0 (Tensor One), 1 (Tensor Two); used: 0, 1; of several types" in doctor(server.home).stdout

        wait_until(lambda: status(server)["gpu_memory"])
        gpus(gpu("GPU-a", error="hang"), gpu("GPU-b", name="Tensor Two"))
        wait_until(lambda: status(server)["gpu_memory"] == {})
        assert status(server)["models_loaded"] == {"gpu_0": True, "gpu_1": True}
        assert server.speak(voice="static", model="mirror").status_code == 200


@pytest.mark.gpu
@on_gpus
def test_the_status_of_real_gpus(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path)) as server:
        server.wait_until_ready()
        wait_until(lambda: len(status(server)["gpu_memory"]) == REAL)
        found = status(server)
        assert (found["gpu_count"], found["allowed_gpus"]) == (REAL, list(range(REAL)))
        assert found["gpu_mode"] == ("multi" if REAL > 1 else "single")
        for memory in found["gpu_memory"].values():
            assert 0 < memory["free_gb"] <= memory["total_gb"]


@pytest.mark.gpu
@on_gpus
@needs_whisper
def test_whisper_listens_on_a_real_gpu(tmp_path: Path) -> None:
    import torch

    if torch.version.cuda is None:
        pytest.skip("PyTorch here is the one for processors")
    with running_server(make_home(tmp_path, {"whisper_model_size": "tiny"})) as server:
        server.wait_until_ready()
        assert server.post("/whisper/load").status_code == 200
        device = by_id(server)["tools-0"]["device"]
        assert device.startswith("gpu_")
        assert status(server)["models_loaded"][device]
