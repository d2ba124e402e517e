"""Dia before its first word: its own settings, its files, its memory, and who speaks where it can't."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from conftest import Server, make_home, needs_dia, running_server, wait_until
from dia_server.config_file import load_settings
from dia_server.errors import ModelUnavailable, SettingsError
from dia_server.models import hub, registry
from dia_server.models.dia import DiaSetup
from dia_server.models.dia.memory import GRAPHS, RESERVE, need_of
from dia_server.models.memory import Need, grant, granted, measure
from dia_server.models.protocol import Engine, Repository
from dia_server.pool.devices import Devices
from dia_server.report import model_state
from dia_server.services.plan import check_models
from hub import COMMIT, Hub, running_hub

pytestmark = needs_dia

WEIGHTS, CODEC = "nari-labs/Dia-1.6B-0626", "descript/dac_44khz"
# Short, so that a reading that never ends is cut soon.
HELLO = "[S1] Hello."
GB = 1_000_000_000

Tiny = tuple[Path, Path]


def folders(tiny: Tiny, **setup: Any) -> dict[str, Any]:
    model, codec = tiny
    return {"engine": "dia", "models": {"dia": {"weights": str(model), "codec": str(codec), **setup}}}


def one_worker(**settings: Any) -> dict[str, Any]:
    return {"lanes": {"speech": {"processes": 1}}, **settings}


def run(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dia_server", *arguments, "--home", str(home)]
    variables = os.environ | {"COLUMNS": "1000"} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=variables)


@pytest.fixture(scope="module")
def speaking(tiny_dia: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = make_home(tmp_path_factory.mktemp("dia"), one_worker(**folders(tiny_dia, slots=4)))
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
    with running_server(make_home(tmp_path / "home", one_worker(engine="dia"))) as server:
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


def load(tiny: Tiny, **setup: Any) -> Engine:
    return registry.load_engine("dia", 1, folders(tiny, **setup)["models"]["dia"])


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


def state(tiny: Tiny, **setup: Any) -> str:
    """What doctor says of the model, without loading it."""
    settings = load_settings(None, {}, folders(tiny, **setup) | {"gpu_mode": "cpu"})
    return model_state(registry.manifest("dia"), settings, Devices(settings))


def old_layout(model: Path) -> None:
    (model / "config.json").write_text('{"version": "0.1", "model": {}, "training": {}, "data": {}}')


def half_there(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_a_tensor(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    del tensors["model.decoder.norm.weight"]
    save_file(tensors, model / "model.safetensors")


def without_sense(model: Path) -> None:
    (model / "config.json").write_text("[")


def without_a_shard(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def of_another_shape(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config["decoder_config"]["intermediate_size"] = 96
    (model / "config.json").write_text(json.dumps(config))


def without_config(model: Path) -> None:
    (model / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (old_layout, "take nari-labs/Dia-1.6B-0626"),
        (half_there, r"/model\.safetensors is damaged or only half there: "),
        (cut_off, r"/model\.safetensors is damaged or only half there: it has [\d,]+ bytes of [\d,]+"),
        (without_a_shard, r"/model-00002-of-00002\.safetensors is not there"),
        (without_a_tensor, "lacks the tensor model.decoder.norm"),
        (of_another_shape, "has the shape .* and config.json makes it"),
        (without_config, "has no config.json"),
        (without_sense, r"/config\.json is damaged"),
    ],
)
def test_files_that_are_no_model_are_told_apart(tiny_dia: Tiny, tmp_path: Path, spoil: Any, words: str) -> None:
    model = tmp_path / "dia"
    shutil.copytree(tiny_dia[0], model)
    spoil(model)
    what_to_do = "; `models: dia: weights` in config.yaml names this folder: copy its files there again"
    with pytest.raises(ModelUnavailable, match=f"{words}.*{what_to_do}"):
        load((model, tiny_dia[1]))
    # What is told without loading it is the same.
    assert re.search(f"{words}.*{what_to_do}", state((model, tiny_dia[1])))


def test_doctor_tells_of_folders_that_are_swapped(tiny_dia: Tiny, tmp_path: Path) -> None:
    told = run(make_home(tmp_path, folders((tiny_dia[1], tiny_dia[0]))), "doctor")
    assert told.returncode == 1
    path = re.escape(str(tiny_dia[1] / "config.json"))
    words = f"{path} is that of a model of the type 'dac', and a 'dia' belongs here; `models: dia: weights` in config"
    assert re.search(f"!! +│ model dia +│ {words}", told.stdout)
    words = "is that of a model of the type 'dia', and a 'dac' belongs here; `models: dia: codec` in config.yaml names"
    assert words in state((tiny_dia[0], tiny_dia[0]))


def test_doctor_tells_of_more_slots_than_there_could_be(tiny_dia: Tiny, tmp_path: Path) -> None:
    told = run(make_home(tmp_path, one_worker(**folders(tiny_dia, slots=100_000))), "doctor", CUDA_VISIBLE_DEVICES="")
    assert told.returncode == 1
    words = r"with 100000 slots needs .*set `slots` under `models: dia:` to \d+"
    assert re.search(f"!! +│ model dia +│ .*{words}", told.stdout)
    assert re.match(r"ready; takes 2\.\d GB of memory", state(tiny_dia, slots=4))


def test_doctor_tells_of_a_setting_that_is_wrong(tmp_path: Path) -> None:
    told = run(make_home(tmp_path, {"models": {"dia": {"dtype": "int8"}}}), "doctor")
    assert told.returncode == 1
    assert "allowed are auto, bfloat16, float16, float32" in told.stdout
    assert "database" in told.stdout


def test_a_codec_that_is_none_is_told(tiny_dia: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="is that of a model of the type 'dia', and a 'dac' belongs here"):
        load((tiny_dia[0], tiny_dia[0]))
    codec = tmp_path / "dac"
    shutil.copytree(tiny_dia[1], codec)
    config = json.loads((codec / "config.json").read_text())
    (codec / "config.json").write_text(json.dumps(config | {"sampling_rate": 24_000}))
    words = "9 codebooks at 24000 Hz, and the model speaks 9 at 44100 Hz, as descript/dac_44khz does"
    with pytest.raises(ModelUnavailable, match=words):
        load((tiny_dia[0], codec))


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


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"nothing, which `models: dia: weights` in config\.yaml names"):
        load((tmp_path / "nothing", tmp_path))


def test_the_fingerprint_has_the_contents_of_a_folder(tiny_dia: Tiny, tmp_path: Path) -> None:
    def name(model: Path, **setup: Any) -> str:
        return load((model, tiny_dia[1]), **setup).fingerprint

    elsewhere, other = tmp_path / "same", tmp_path / "other"
    shutil.copytree(tiny_dia[0], elsewhere)
    shutil.copytree(tiny_dia[0], other)
    content = bytearray((other / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model.safetensors").write_bytes(content)
    assert name(elsewhere) == name(tiny_dia[0])
    assert len({name(tiny_dia[0]), name(other), name(elsewhere, slots=2), name(elsewhere, dtype="bfloat16")}) == 4


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


# The hub.


@pytest.fixture
def hub_here(tiny_dia: Tiny) -> Iterator[Hub]:
    with running_hub(dict(zip((WEIGHTS, CODEC), tiny_dia, strict=True))) as running:
        yield running


def pull(home: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    return run(home, "models", "pull", "dia", HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1")


def test_pull_shows_licences_fetches_what_is_needed_and_records_commits(hub_here: Hub, tmp_path: Path) -> None:
    home = make_home(tmp_path, one_worker(engine="dia"))
    with (home / "config.yaml").open("a") as file:
        file.write("models:\n  dia:\n    slots: 2  # enough\n")
    pulled = pull(home, hub_here.url)
    assert pulled.returncode == 0, pulled.stderr
    lines = pulled.stdout.splitlines()
    assert lines[0].startswith(f"weights: {WEIGHTS}, commit {COMMIT[:12]}, ")
    assert lines[0].endswith(" MB, apache-2.0")
    assert lines[1].startswith(f"codec: {CODEC}, commit")
    assert {path.rpartition("/")[2] for path in hub_here.asked} == {"config.json", "model.safetensors"}
    text = (home / "config.yaml").read_text()
    assert "    slots: 2  # enough\n" in text
    setup = yaml.safe_load(text)["models"]["dia"]
    assert setup == {"slots": 2, "revision": COMMIT, "codec_revision": COMMIT}

    again = pull(home, "http://127.0.0.1:9")
    assert (again.returncode, again.stdout) == (0, "dia: all of it is here\n")
    with running_server(home) as server:
        server.wait_until_ready()
        assert server.speak(HELLO).headers["x-model"] == "dia"
    assert "ready" in next(line for line in run(home, "doctor").stdout.splitlines() if "model dia" in line)


def test_a_cut_connection_is_taken_up(hub_here: Hub, tmp_path: Path) -> None:
    hub_here.cuts = 2
    pulled = pull(tmp_path, hub_here.url)
    assert pulled.returncode == 0, pulled.stderr
    assert hub_here.cuts == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["models"]["dia"]["revision"] == COMMIT


def test_a_pull_that_was_killed_is_half_there_until_the_next_one(hub_here: Hub, tmp_path: Path) -> None:
    assert pull(tmp_path, hub_here.url).returncode == 0
    snapshot = next((tmp_path / "cache" / "huggingface" / "hub").glob(f"models--nari-labs*/snapshots/{COMMIT}"))
    # As it is where the process ended before its last file came.
    (snapshot / "model.safetensors").resolve().unlink()
    (snapshot / "model.safetensors").unlink()
    told = next(line for line in run(tmp_path, "doctor").stdout.splitlines() if "model dia" in line)
    assert "are only half here; `dia-server models pull dia` gets the rest" in told
    hub_here.asked.clear()
    assert pull(tmp_path, hub_here.url).returncode == 0
    assert [path.rpartition("/")[2] for path in hub_here.asked] == ["model.safetensors"]


def test_offline_pull_says_what_to_do_in_a_line(tmp_path: Path) -> None:
    pulled = pull(tmp_path, "http://127.0.0.1:9")
    assert pulled.returncode == 1
    assert f"Can't fetch {WEIGHTS} from the Hugging Face hub" in pulled.stderr
    assert "Check the connection, or copy the files" in pulled.stderr
    assert f"that of {WEIGHTS} as `weights`, {CODEC} as `codec`" in pulled.stderr
    assert len(pulled.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "config.yaml").exists()


def test_a_repository_that_is_not_there_is_named(hub_here: Hub, tmp_path: Path) -> None:
    make_home(tmp_path, {"models": {"dia": {"weights": "nobody/nothing"}}})
    pulled = pull(tmp_path, hub_here.url)
    assert pulled.returncode == 1
    assert "Can't fetch nobody/nothing from the Hugging Face hub: there is no such repository" in pulled.stderr


def test_of_folders_there_is_nothing_to_fetch(tiny_dia: Tiny, tmp_path: Path) -> None:
    pulled = pull(make_home(tmp_path, folders(tiny_dia)), "http://127.0.0.1:9")
    assert pulled.returncode == 0, pulled.stderr
    for name, folder in zip(("weights", "codec"), tiny_dia, strict=True):
        words = f"{name}: nothing is fetched, since `models: dia: {name}` in config.yaml names the folder {folder}"
        assert words in pulled.stdout
    assert "dia: all of it is here" in pulled.stdout


def test_of_folders_pull_tells_what_is_wrong_with_them(tiny_dia: Tiny, tmp_path: Path) -> None:
    model = tmp_path / "dia"
    shutil.copytree(tiny_dia[0], model)
    cut_off(model)
    pulled = pull(make_home(tmp_path, folders((model, tiny_dia[1]))), "http://127.0.0.1:9")
    assert pulled.returncode == 1
    assert f"{model / 'model.safetensors'} is damaged or only half there" in pulled.stderr
    assert "all of it is here" not in pulled.stdout
    pulled = pull(make_home(tmp_path, folders((tiny_dia[0], tmp_path / "gone"))), "http://127.0.0.1:9")
    assert pulled.returncode == 1
    assert (
        f"the folder {tmp_path / 'gone'}, which `models: dia: codec` in config.yaml names, is not there"
        in pulled.stderr
    )


def test_what_is_damaged_in_the_cache_is_told_by_doctor_and_pull(hub_here: Hub, tmp_path: Path) -> None:
    assert pull(tmp_path, hub_here.url).returncode == 0
    snapshot = next((tmp_path / "cache" / "huggingface" / "hub").glob(f"models--nari-labs*/snapshots/{COMMIT}"))
    cut_off(snapshot)
    words = f"delete {snapshot.parent.parent} and fetch it again by `dia-server models pull dia`"
    assert words in run(tmp_path, "doctor").stdout
    pulled = pull(tmp_path, hub_here.url)
    assert pulled.returncode == 1
    assert words in pulled.stderr
    shutil.rmtree(snapshot.parent.parent)
    assert pull(tmp_path, hub_here.url).returncode == 0


def test_where_the_environment_sets_the_models_pull_says_what_to_add(hub_here: Hub, tmp_path: Path) -> None:
    arguments = {"HF_ENDPOINT": hub_here.url, "HF_HUB_DISABLE_XET": "1", "DIA_SERVER_MODELS": "{dia: {slots: 2}}"}
    pulled = run(tmp_path, "models", "pull", "dia", **arguments)
    assert pulled.returncode == 0, pulled.stderr
    assert f"revision: {COMMIT}, codec_revision: {COMMIT}" in pulled.stdout
    assert not (tmp_path / "config.yaml").exists()


def test_sources_that_begin_like_folders_are_folders() -> None:
    def folder(source: str) -> Path | None:
        return hub.folder_of(Repository(name="weights", source=source, revision=None, setting="revision", files=()))

    assert folder(WEIGHTS) is None
    assert folder("./dia") == Path("dia")
    assert folder("/models/dia") == Path("/models/dia")
    assert folder("~/dia") == Path.home() / "dia"
