"""Folders that are to be Dia and its codec: what is wrong with them is told without loading them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import make_home, needs_dia
from dia_server.errors import ModelUnavailable
from dia_setup import Tiny, cut_off, folders, load, run, state

pytestmark = needs_dia


def old_layout(model: Path) -> None:
    (model / "config.json").write_text('{"version": "0.1", "model": {}, "training": {}, "data": {}}')


def half_there(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


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
    (codec / "config.json").write_text(json.dumps(config | {"codebook_dim": 16}))
    words = r"quantizers\.0\.in_proj\.weight has the shape \(8, 128, 1\), and config\.json makes it \(16, 128, 1\)"
    with pytest.raises(ModelUnavailable, match=words):
        load((tiny_dia[0], codec))
    (codec / "config.json").write_text(json.dumps(config | {"downsampling_ratios": [2, 0]}))
    with pytest.raises(
        ModelUnavailable, match=r"is not that of a DAC: Expected `int` >= 1 - at `\$\.downsampling_ratios"
    ):
        load((tiny_dia[0], codec))


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
