"""IndexTTS2's adapter against a stand-in of its checkout, which has its signatures and notes what it is called with.

The real code and weights can't be had here: this shows the mapping, not the sound.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import wave
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import Server, make_home, running_server
from dia_server.config_file import Sources
from dia_server.errors import ModelUnavailable, SettingsError
from dia_server.models import registry
from dia_server.models.index_tts2 import IndexTtsSetup
from dia_server.models.index_tts2.engine import load
from dia_server.models.index_tts2.setup import check
from dia_server.models.protocol import Engine
from dia_server.pull import pull
from dia_server.settings import Settings
from dia_server.tasks import Audio, Delivery, Done, Ending, Event, Failed, Reference, Speak

pytestmark = pytest.mark.skipif(find_spec("torch") is None, reason="the adapter seeds PyTorch, not installed here")

STAND_IN = Path(__file__).parent / "program" / "indextts"
HAPPY = (0.8, *[0.0] * 7)


def checkout(folder: Path) -> Path:
    """A folder like the clone's, with an environment's interpreter and weights."""
    shutil.copytree(STAND_IN, folder / "indextts")
    for name in ("checkpoints", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    (folder / "checkpoints" / "config.yaml").write_text("version: 2.0\n", encoding="utf-8")
    (folder / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (folder / ".venv" / "bin" / "python").chmod(0o755)
    return folder


def recording(path: Path, seed: int) -> Reference:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(seed).integers(-9_000, 9_000, 32_000, np.int16).tobytes())
    return Reference(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


class Adapter:
    """A loaded engine, and what its stand-in was called with."""

    def __init__(self, folder: Path, **setup: Any) -> None:
        self.mark, self.folder = folder / "mark", folder
        self.voice, self.manner = recording(folder / "voice.wav", 1), recording(folder / "manner.wav", 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("INDEX_TTS_MARK", str(self.mark))
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
            patch.setenv("DIA_HASHES", str(folder / "hashes"))
            self.engine: Engine = load(1, IndexTtsSetup(checkout=str(checkout(folder / "index-tts")), **setup))

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.mark.read_text().splitlines()]

    def say(self, text: str = "Hello.", **fields: Any) -> tuple[bytes, dict[str, Any]]:
        """The samples, and the call of `infer` that made them."""
        events = self.attempt(text, **fields)
        assert isinstance(events[-1], Done), events[-1]
        return b"".join(event.pcm for event in events if isinstance(event, Audio)), self.calls()[-1]

    def attempt(self, text: str, **fields: Any) -> list[Event]:
        task = Speak(model="index-tts2", text=text, **{"seed": 1, "references": {"S1": self.voice}, **fields})
        self.engine.admit(1, task)
        events: list[Event] = []
        while not events or not isinstance(events[-1], Ending):
            events += [event for _, event in self.engine.step()]
        return events


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    running = Adapter(tmp_path_factory.mktemp("two"))
    yield running
    running.engine.close()


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adapter]:
    running = Adapter(tmp_path_factory.mktemp("later"), version=2.5, fp16=True, use_torch_compile=True)
    yield running
    running.engine.close()


def test_the_model_is_made_in_its_checkout_without_qwen(adapter: Adapter) -> None:
    made = adapter.calls()[0]
    weights = adapter.folder / "index-tts" / "checkpoints"
    assert made["folder"] == str(adapter.folder / "index-tts")
    assert (made["made"]["model_dir"], made["made"]["cfg_path"]) == (str(weights), str(weights / "config.yaml"))
    assert (made["made"]["use_fp16"], made["made"]["use_qwen_emo"]) == (False, False)


def test_a_seed_fixes_every_die(adapter: Adapter) -> None:
    first, again, other = (adapter.say(seed=seed)[0] for seed in (2**63 - 1, 2**63 - 1, 5))
    assert first == again
    assert first != other


def test_a_plain_text_is_said_in_the_speakers_own_manner(adapter: Adapter) -> None:
    _, call = adapter.say("Good morning.")
    assert (call["text"], call["spk_audio_prompt"]) == ("Good morning.", adapter.voice.path)
    assert (call["emo_audio_prompt"], call["emo_vector"], call["use_emo_text"]) == (None, None, False)
    assert call["generation_kwargs"] == {}


def test_weights_are_its_vector_and_none_where_they_are_all_zero(adapter: Adapter) -> None:
    assert adapter.say(delivery=Delivery(emotion=HAPPY))[1]["emo_vector"] == list(HAPPY)
    zeros = adapter.say(delivery=Delivery(emotion=(0.0,) * 8, emotion_reference=adapter.manner))[1]
    assert (zeros["emo_vector"], zeros["emo_audio_prompt"]) == (None, adapter.manner.path)


def test_a_manner_comes_with_its_strength(adapter: Adapter) -> None:
    _, call = adapter.say(delivery=Delivery(emotion_reference=adapter.manner, emotion_strength=0.6))
    assert (call["emo_audio_prompt"], call["emo_alpha"], call["emo_vector"]) == (adapter.manner.path, 0.6, None)


def test_its_own_options_reach_it(adapter: Adapter) -> None:
    _, call = adapter.say(options={"use_random": True, "interval_silence": 50, "top_k": 7, "num_beams": 1})
    assert (call["use_random"], call["interval_silence"]) == (True, 50)
    assert call["generation_kwargs"] == {"top_k": 7, "num_beams": 1}


def test_it_beats_while_its_network_computes(adapter: Adapter) -> None:
    adapter.engine.admit(1, Speak(model="index-tts2", text="A slow one.", seed=1, references={"S1": adapter.voice}))
    beats = 0
    while not adapter.engine.step():
        beats += 1
    # One of its progress, one a second of the network's.
    assert beats >= 2
    adapter.engine.cancel(1)


def test_an_error_of_its_own_is_told_and_survived(adapter: Adapter) -> None:
    (failed,) = [event for event in adapter.attempt("CUDA?") if isinstance(event, Failed)]
    assert failed == Failed("The model failed: RuntimeError: CUDA out of memory")
    assert adapter.say()[0]


def test_version_2_refuses_what_2_5_takes(adapter: Adapter) -> None:
    (failed,) = [e for e in adapter.attempt("Hi.", options={"duration_factor": 1.5}) if isinstance(e, Failed)]
    assert failed.is_input_wrong
    assert "duration_factor" in failed.message


def test_version_2_5_computes_as_it_is_set(later: Adapter) -> None:
    made = later.calls()[0]["made"]
    assert (made["use_bf16"], made["use_torch_compile"], made["use_deepspeed"]) == (True, True, False)


@pytest.mark.parametrize(
    ("text", "options", "language"),
    [
        ("Good morning.", {}, "en"),
        ("早上好。", {}, "zh"),
        ("早上好, Anna.", {}, "zhen"),
        ("おはようございます。", {}, "ja"),
        ("Buenos días.", {"lang": "es"}, "es"),
    ],
)
def test_version_2_5_is_told_the_language(later: Adapter, text: str, options: dict[str, Any], language: str) -> None:
    assert later.say(text, options=options)[1]["lang"] == language


def test_version_2_5_takes_its_own_options(later: Adapter) -> None:
    call = later.say(options={"duration_factor": 1.5, "text_normalization": False})[1]
    assert (call["duration_factor"], call["text_normalization"]) == (1.5, False)


def test_the_fingerprint_tells_the_versions_apart(adapter: Adapter, later: Adapter) -> None:
    assert adapter.engine.fingerprint.startswith("index-tts2-")
    assert adapter.engine.fingerprint != later.engine.fingerprint


def test_the_fingerprint_tells_files_of_the_same_size_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INDEX_TTS_MARK", "DIA_HASHES"):
        monkeypatch.setenv(name, str(tmp_path / name))
    setup = IndexTtsSetup(checkout=str(checkout(tmp_path / "index-tts")))
    weights, code = setup.weights / "gpt.pth", setup.folder / "indextts" / "speaking.py"

    def fingerprint() -> str:
        engine = load(1, setup)
        engine.close()
        return engine.fingerprint

    weights.write_bytes(b"trained")
    plain = fingerprint()
    weights.write_bytes(b"retuned")
    tuned = fingerprint()
    code.write_text(code.read_text(encoding="utf-8").replace("5_000", "6_000"), encoding="utf-8")
    assert len({plain, tuned, fingerprint()}) == 3


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("indextts/infer_v2.py", "`models: index-tts2: checkout`"),
        (".venv/bin/python", "`models: index-tts2: python` .* `uv sync`"),
        ("checkpoints/config.yaml", "`models: index-tts2: checkpoints`"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, gone: str, words: str) -> None:
    folder = checkout(tmp_path / "index-tts")
    setup = IndexTtsSetup(checkout=str(folder))
    check(setup)
    (folder / gone).unlink()
    with pytest.raises(ModelUnavailable, match=words):
        check(setup)


def test_pull_tells_where_it_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(models={"index-tts2": {"checkout": str(tmp_path / "nowhere")}})
    pull("index-tts2", settings, Sources(tmp_path / "config.yaml", {}, {}))
    assert "docs/programs.md" in capsys.readouterr().out.replace("\n", "")


def test_there_are_two_versions() -> None:
    with pytest.raises(SettingsError, match=r"`version` must be 2 or 2\.5"):
        registry.setup_of("index-tts2", {"index-tts2": {"version": 3}})


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    models = {"index-tts2": {"checkout": str(checkout(folder / "index-tts"))}}
    home = make_home(folder / "home", {"models": models})
    (home / "audio_prompts").mkdir()
    recording(home / "audio_prompts" / "ada.wav", 1)
    (home / "voices" / "ada.yaml").write_text(yaml.safe_dump({"audio_prompt": "ada"}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INDEX_TTS_MARK", str(folder / "mark"))
        with running_server(home) as server:
            yield server


def test_a_server_speaks_with_it(served: Server) -> None:
    wanted = {"seed": 1, "instructions": "angry", "temperature": 0.5, "cfg_scale": 3}
    answer = served.speak("Well.", "ada", model="index-tts2", response_format="wav", **wanted)
    assert (answer.status_code, answer.headers["x-model"]) == (200, "index-tts2")
    assert answer.headers["x-unused-parameters"] == "cfg_scale"
    with wave.open(io.BytesIO(answer.content)) as file:
        assert (file.getframerate(), file.getnframes()) == (22_050, 22_050)
    call = json.loads((served.home.parent / "mark").read_text().splitlines()[-1])
    assert call["emo_vector"][1] == max(call["emo_vector"]) > 0
    assert call["generation_kwargs"] == {"temperature": 0.5}
    # The blob: another recording under the same id is another path, and so never taken for this one.
    blob = Path(call["spk_audio_prompt"])
    assert blob.stem == hashlib.sha256(blob.read_bytes()).hexdigest()


def test_a_voice_without_a_recording_is_refused(served: Server) -> None:
    answer = served.speak("Well.", "skylark", model="index-tts2")
    assert answer.status_code == 400
    assert "has no voice of its own" in answer.json()["error"]["message"]


def test_a_server_without_it_says_what_to_do(server: Server) -> None:
    answer = server.speak("Well.", model="index-tts2")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "docs/programs.md" in answer.json()["error"]["message"]
    (card,) = [card for card in server.get("/v1/models").json()["data"] if card["id"] == "index-tts2"]
    assert "docs/programs.md" in card["unavailable"]
    assert "index-tts2" not in {model["id"] for model in server.get("/v1/audio/models").json()["models"]}
    # Nobody makes the server look ill by asking for it.
    assert server.get("/health").json()["status"] == "healthy"
