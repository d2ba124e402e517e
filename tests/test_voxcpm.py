"""VoxCPM: its own package with a tiny network of random weights, and what a server without it says."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import NOISE, Server, make_home, running_server
from dia_server.errors import ModelUnavailable
from dia_server.tasks import Audio, Done, Ending, Event, Failed, Reference, Speak
from tiny_voxcpm import CONFIG, write_tiny_voxcpm

is_here = find_spec("voxcpm") is not None
needs_voxcpm = pytest.mark.skipif(not is_here, reason="VoxCPM is an extra, and not installed here")
needs_none = pytest.mark.skipif(is_here, reason="VoxCPM is installed here")
# Of its libraries.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

TEXT = "Good morning."


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_voxcpm(tmp_path_factory.mktemp("voxcpm") / "tiny")


@pytest.fixture(scope="module")
def engine(weights: Path) -> Iterator[Any]:
    from dia_server.models.voxcpm import VoxCpmSetup
    from dia_server.models.voxcpm.engine import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        loaded = load(1, VoxCpmSetup(weights=str(weights)))
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def own(weights: Path) -> Any:
    """`VoxCPM.generate` itself, after a seed."""
    import torch
    from voxcpm import VoxCPM

    model = VoxCPM(str(weights), enable_denoiser=False, optimize=False, device="cpu")

    def generate(seed: int, text: str = TEXT, **fields: Any) -> bytes:
        torch.manual_seed(seed)
        samples: np.ndarray[Any, np.dtype[np.float32]] = model.generate(text, **fields)
        return samples.tobytes()

    return generate


def outcome(engine: Any, text: str = TEXT, seed: int = 1, **fields: Any) -> list[Event]:
    engine.admit(1, Speak(model="voxcpm", text=text, seed=seed, **fields))
    events: list[Event] = []
    while not events or not isinstance(events[-1], Ending):
        events += [event for _, event in engine.step()]
    return events


def pcm(engine: Any, *args: Any, **fields: Any) -> bytes:
    events = outcome(engine, *args, **fields)
    sound = b"".join(event.pcm for event in events if isinstance(event, Audio))
    assert events[-1] == Done(len(sound) // 4)
    return sound


def recording(path: Path, transcript: str | None = None) -> Reference:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(1).integers(-9_000, 9_000, 16_000, np.int16).tobytes())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Reference(path=str(path), sha256=sha256, transcript=transcript)


@needs_voxcpm
def test_the_sound_is_that_of_its_own_program(engine: Any, own: Any) -> None:
    assert pcm(engine) == own(1)
    assert pcm(engine, seed=2) == own(2) != own(1)
    # Whatever was said between them.
    assert pcm(engine) == own(1)


@needs_voxcpm
def test_every_option_reaches_it(engine: Any, own: Any) -> None:
    options = {
        "cfg_value": 1.5,
        "inference_timesteps": 3,
        "retry_badcase": False,
        "retry_badcase_max_times": 1,
        "retry_badcase_ratio_threshold": 2.0,
    }
    assert pcm(engine, options=options) == own(1, **options) != own(1)


@needs_voxcpm
def test_no_retries_are_one_attempt(engine: Any, own: Any) -> None:
    options = {"retry_badcase_max_times": 0, "retry_badcase_ratio_threshold": 1.0}
    assert pcm(engine, options=options) == own(1, retry_badcase=False, retry_badcase_ratio_threshold=1.0)


@needs_voxcpm
def test_a_recording_is_imitated_and_gone_on_from_where_its_words_are_known(
    engine: Any, own: Any, tmp_path: Path
) -> None:
    path = str(tmp_path / "ada.wav")
    plain, told = recording(tmp_path / "ada.wav"), recording(tmp_path / "ada.wav", "Hello.")
    assert pcm(engine, references={"S1": plain}) == own(1, reference_wav_path=path)
    assert pcm(engine, references={"S1": told}) == own(
        1, reference_wav_path=path, prompt_wav_path=path, prompt_text="Hello."
    )


@needs_voxcpm
def test_a_recording_that_is_gone_is_the_clients_to_mend(engine: Any, tmp_path: Path) -> None:
    gone = recording(tmp_path / "ada.wav")
    Path(gone.path).unlink()
    (failed,) = outcome(engine, references={"S1": gone})
    assert isinstance(failed, Failed)
    assert failed.is_input_wrong


@needs_voxcpm
def test_without_a_denoiser_there_is_no_denoising(engine: Any) -> None:
    (failed,) = outcome(engine, options={"denoise": True})
    assert isinstance(failed, Failed)
    assert (failed.is_unavailable, "models: voxcpm: denoiser" in failed.message) == (True, True)


@needs_voxcpm
def test_punctuation_alone_is_nothing_to_say(engine: Any) -> None:
    assert outcome(engine, "…!") == [Done(0)]


@needs_voxcpm
def test_a_cancelled_task_ends_in_the_middle(engine: Any, own: Any) -> None:
    engine.admit(1, Speak(model="voxcpm", text="word " * 40, seed=1, options={"inference_timesteps": 50}))
    assert engine.step() == []
    engine.cancel(1)
    assert pcm(engine) == own(1)


@needs_voxcpm
def test_weights_of_another_rate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dia_server.models.voxcpm import VoxCpmSetup
    from dia_server.models.voxcpm.engine import load

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = write_tiny_voxcpm(tmp_path / "other")
    config = CONFIG | {"audio_vae_config": CONFIG["audio_vae_config"] | {"out_sample_rate": 44_100}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="44100 Hz; name those of VoxCPM2"):
        load(1, VoxCpmSetup(weights=str(folder)))


@needs_voxcpm
def test_a_server_speaks_with_it(weights: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {"models": {"voxcpm": {"weights": str(weights)}}})
    with running_server(home) as server:
        answer = server.speak(TEXT, model="voxcpm", response_format="wav", seed=1)
        assert (answer.status_code, answer.headers["x-model"]) == (200, "voxcpm")
        with wave.open(io.BytesIO(answer.content)) as file:
            assert (file.getframerate(), file.getnframes() > 0) == (48_000, True)


def run(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dia_server", *arguments, "--home", str(home)]
    variables = os.environ | {"COLUMNS": "500"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    return ended.stdout + ended.stderr


@needs_none
def test_a_server_without_it_says_what_to_install(server: Server) -> None:
    answer = server.speak(TEXT, model="voxcpm")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "`pip install 'dia-server[voxcpm]'` brings them" in answer.json()["error"]["message"]
    assert "dia-server[voxcpm]" in server.get("/v1/models/voxcpm").json()["unavailable"]
    (described,) = [each for each in server.get("/models").json()["models"] if each["id"] == "voxcpm"]
    assert "dia-server[voxcpm]" in described["description"]


@needs_none
def test_the_doctor_says_it_too_and_finds_nothing_wrong(tmp_path: Path) -> None:
    (line,) = [line for line in run(make_home(tmp_path / "home"), "doctor").splitlines() if "model voxcpm" in line]
    assert "ok" in line
    assert "if you want it: pip install 'dia-server[voxcpm]'" in line


@needs_none
def test_as_the_default_model_it_says_so_with_every_answer(tmp_path: Path) -> None:
    with running_server(make_home(tmp_path / "home", NOISE | {"engine": "voxcpm"})) as server:
        message = server.speak(TEXT).json()["error"]["message"]
        assert message.startswith("Model 'voxcpm' can't be loaded: its packages are not installed")
