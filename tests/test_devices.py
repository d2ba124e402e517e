"""Which GPUs are used, which model that lets speak by itself, and what is said of GPUs that can't be used.

`stand_ins/pynvml.py` stands in for NVML in the process of these tests.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cards import GB, STAND_IN, Write, gpu
from conftest import needs_dia, wait_until
from dia_server.errors import SettingsError
from dia_server.pool import nvml
from dia_server.pool.choice import choose
from dia_server.pool.devices import Devices
from dia_server.pool.pool import Pool
from dia_server.services.gpus import Gpus
from dia_server.settings import Lane, Settings


@pytest.fixture
def gpus_of_this_process(gpus: Write, monkeypatch: pytest.MonkeyPatch) -> Write:
    spec = importlib.util.spec_from_file_location("pynvml", STAND_IN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return gpus


@pytest.mark.parametrize(
    ("settings", "visible", "used"),
    [
        ({}, None, ["GPU-a", "GPU-b", "GPU-c"]),
        ({"gpu_mode": "multi"}, None, ["GPU-a", "GPU-b", "GPU-c"]),
        ({"gpu_mode": "single"}, None, ["GPU-a"]),
        ({"allowed_gpus": (2, 0)}, None, ["GPU-c", "GPU-a"]),
        ({"allowed_gpus": (2, 0), "gpu_mode": "single"}, None, ["GPU-c"]),
        ({"allowed_gpus": ()}, None, []),
        ({"gpu_mode": "cpu", "allowed_gpus": (7,)}, None, []),
        ({}, "2,1", ["GPU-c", "GPU-b"]),
        ({"allowed_gpus": (1,)}, "2,1", ["GPU-b"]),
        ({}, "GPU-b", ["GPU-b"]),
        ({}, "1,9,0", ["GPU-b"]),
        ({}, "", []),
        ({}, "-1", []),
    ],
)
def test_the_gpus_that_are_used(
    gpus_of_this_process: Write,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    visible: str | None,
    used: list[str],
) -> None:
    gpus_of_this_process(gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c"))
    if visible is not None:
        monkeypatch.setenv(nvml.VISIBLE, visible)
    assert [device.uuid for device in Devices(Settings(**settings)).used] == used


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"allowed_gpus": (0, 5)}, r"names 5, but the GPUs here are: 0 \(Tensor One\)"),
        ({"allowed_gpus": (-1,)}, "names -1"),
        ({"allowed_gpus": (), "gpu_mode": "multi"}, "`allowed_gpus` allows none"),
        ({"allowed_gpus": (1,)}, "names 1.*GPU 1 does not answer: GPU is lost"),
    ],
)
def test_gpus_that_cannot_be_used_are_named_with_those_that_can(
    gpus_of_this_process: Write, settings: dict[str, Any], words: str
) -> None:
    gpus_of_this_process(gpu("GPU-a"), gpu("GPU-b", error="lost"))
    with pytest.raises(SettingsError, match=words):
        Devices(Settings(**settings))


def test_a_gpu_that_is_lost_at_the_start_changes_no_others_number(gpus_of_this_process: Write) -> None:
    gpus_of_this_process(gpu("GPU-a", error="lost"), gpu("GPU-b"))
    assert [device.name for device in Devices(Settings()).used] == ["gpu_1"]


def test_a_driver_that_hangs_leaves_the_processor(gpus_of_this_process: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "FIND_SECONDS", 0.1)
    gpus_of_this_process(gpu("GPU-a", error="hang"))
    devices = Devices(Settings())
    assert devices.mode == "cpu"
    assert devices.found.missing == "NVIDIA's driver has not answered for 0.1 s"


def test_pressure_is_the_part_of_the_memory_that_is_taken(gpus_of_this_process: Write) -> None:
    gpus_of_this_process(gpu("GPU-a"), gpu("GPU-b", free=1 * GB), gpu("GPU-c", error="unsupported"))
    pool = Pool(Settings(lanes={"speech": Lane(models=("noise",))}))
    pool.devices.watch.start()
    service = Gpus(pool)
    try:
        wait_until(service.pressure)
        first, second = service.pressure()["gpu_0"], service.pressure()["gpu_1"]
        assert list(service.pressure()) == ["gpu_0", "gpu_1"]
        assert (first.pressure, first.status) == (pytest.approx(4 / 24, abs=0.001), "normal")
        assert (second.pressure, second.status) == (pytest.approx(23 / 24, abs=0.001), "high")
    finally:
        pool.devices.watch.stop()


@needs_dia
@pytest.mark.parametrize(
    ("free", "changes", "model", "words"),
    [
        (20 * GB, {}, "dia", "^$"),
        (0, {}, "dia", "^$"),
        (1 * GB, {}, "hibari", "not 'dia': it needs 4.0 GB free on each GPU, and gpu_1 has 1.1 GB"),
        (4 * GB, {"workers_per_gpu": 3}, "hibari", r"it needs 12\.1 GB free on each GPU, and gpu_1 has 4\.3 GB"),
        (20 * GB, {"gpu_mode": "cpu"}, "hibari", "not 'dia': it wants a GPU, and none is used"),
        (20 * GB, {"lanes": {"a": Lane(models=("dia",), device="cpu")}}, "hibari", "its lane 'a' uses no GPU"),
        (20 * GB, {"lanes": {"a": Lane(models=("hibari",))}}, "hibari", "no lane runs it"),
        (20 * GB, {"models": {}}, "hibari", "its weights .* are not here.*; fetch them: `dia-server models pull dia`"),
        (20 * GB, {"engine": "noise"}, "hibari", "`engine` was 'noise' when the server started"),
    ],
)
def test_by_itself_the_best_model_that_can_run_speaks(
    gpus_of_this_process: Write,
    tiny_dia: tuple[Path, Path],
    free: int,
    changes: dict[str, Any],
    model: str,
    words: str,
) -> None:
    gpus_of_this_process(gpu("GPU-a"), gpu("GPU-b", free=free))
    weights, codec = map(str, tiny_dia)
    settings = Settings(**{"models": {"dia": {"weights": weights, "codec": codec, "slots": 8}}, **changes})
    choice = choose(settings, Devices(settings))
    assert choice.model == model
    assert re.search(words, choice.reason)


@needs_dia
def test_the_lane_of_the_best_model_has_the_gpus(gpus_of_this_process: Write, tiny_dia: tuple[Path, Path]) -> None:
    gpus_of_this_process(gpu("GPU-a"), gpu("GPU-b"))
    weights, codec = map(str, tiny_dia)
    here = Pool(Settings(models={"dia": {"weights": weights, "codec": codec}}))
    assert [place.name for place in here.lanes["speech"].places] == ["speech-0", "speech-1"]
    assert here.lanes["speech"].config.models == ("dia", "hibari", "noise")
    gone = Pool(Settings(models={"dia": {"weights": f"{weights}-gone"}}))
    assert gone.lanes["speech"].config.models == ("hibari", "dia", "noise")
