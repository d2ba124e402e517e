"""Dia from the hub: fetched whole, taken up where it was cut off, and told apart from folders."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import make_home, needs_dia, running_server
from dia_server.models import hub
from dia_server.models.protocol import Repository
from dia_setup import CODEC, HELLO, WEIGHTS, Tiny, cut_off, folders, run
from hub import COMMIT, Hub, running_hub

pytestmark = needs_dia


@pytest.fixture
def hub_here(tiny_dia: Tiny) -> Iterator[Hub]:
    with running_hub(dict(zip((WEIGHTS, CODEC), tiny_dia, strict=True))) as running:
        yield running


def pull(home: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    return run(home, "models", "pull", "dia", HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1")


def test_pull_shows_licences_fetches_what_is_needed_and_records_commits(hub_here: Hub, tmp_path: Path) -> None:
    home = make_home(tmp_path, {"engine": "dia"})
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
