"""IndexTTS2 as a program of dia-server; run in its checkout, by the interpreter of its environment.

It imports nothing of dia-server, and runs on Python 3.10, as IndexTTS2 does. Its argument says which model to load.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

SAMPLE_RATE = 22_050
BEAT_SECONDS = 1.0
# Whose layers tell that there is progress: one runs for each code, the others for each recording, step and sentence.
NETWORKS = ("gpt", "semantic_model", "s2mel", "bigvgan")
# Of version 2.5 alone.
LATER = ("lang", "duration_factor", "text_normalization")
KANA, CHINESE = ("\u3040", "\u30ff"), ("\u4e00", "\u9fff")

Say = Callable[..., None]


class WrongInput(Exception):
    """The client's to mend."""


class Speaker:
    """The loaded model."""

    def __init__(self, wanted: dict[str, Any], say: Say) -> None:
        self._say = say
        self._last_beat = 0.0
        self._is_later = wanted["version"] == 2.5  # noqa: PLR2004
        module = importlib.import_module("indextts.infer_v2_5" if self._is_later else "indextts.infer_v2")
        known = inspect.signature(module.IndexTTS2.__init__).parameters
        self._model = module.IndexTTS2(**arguments(wanted, known))
        self._model.gr_progress = lambda value, **_: self._say(progress=float(value))
        for name in NETWORKS:
            # What is compiled must not be looked into.
            if name != "s2mel" or not wanted["use_torch_compile"]:
                self._watch(getattr(self._model, name, None))

    def speak(self, order: dict[str, Any]) -> None:
        """Write what an order wants."""
        if not order["reference"]:
            raise WrongInput("IndexTTS2 has no voice of its own; name a recording to sound like")
        seed_all(order["seed"])
        options = dict(order["options"])
        later = {name: options.pop(name) for name in LATER if name in options}
        if self._is_later:
            later.setdefault("lang", language_of(order["text"]))
        elif later:
            raise WrongInput(f"IndexTTS 2 takes no {', '.join(later)}; version 2.5 does")
        self._model.infer(
            spk_audio_prompt=order["reference"],
            text=order["text"],
            output_path=order["output"],
            **manner(order),
            **later,
            **options,
        )

    def _watch(self, network: Any) -> None:
        for layer in network.modules() if network is not None else ():
            layer.register_forward_pre_hook(lambda *_: self._beat())

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat > BEAT_SECONDS:
            self._last_beat = time.monotonic()
            self._say(beat=True)


def arguments(wanted: dict[str, Any], known: Any) -> dict[str, Any]:
    """What the model is made with; what is off is left out, since not every version knows it."""
    folder = Path(wanted["checkpoints"])
    chosen: dict[str, Any] = {"cfg_path": str(folder / "config.yaml"), "model_dir": str(folder)}
    if wanted["half"]:
        chosen["use_bf16" if wanted["version"] == 2.5 else "use_fp16"] = True  # noqa: PLR2004
    for name in ("use_torch_compile", "use_deepspeed", "use_accel"):
        if wanted[name]:
            chosen[name] = True
    if wanted["use_cuda_kernel"] is not None:
        chosen["use_cuda_kernel"] = wanted["use_cuda_kernel"]
    # dia-server reads emotions from texts itself.
    if "use_qwen_emo" in known:
        chosen["use_qwen_emo"] = False
    return chosen


def manner(order: dict[str, Any]) -> dict[str, Any]:
    """How to say it: as a recording does, or by weights, or as the speaker's own recording does.

    Weights that are all zero would count as given, and put the recording aside.
    """
    if order["emotion_reference"]:
        return {"emo_audio_prompt": order["emotion_reference"], "emo_alpha": order["emotion_strength"]}
    if any(order["emotion"]):
        return {"emo_vector": list(order["emotion"])}
    return {}


def language_of(text: str) -> str:
    """Version 2.5 wants to know it: kana is Japanese, other CJK letters are Chinese."""
    if any(KANA[0] <= letter <= KANA[1] for letter in text):
        return "ja"
    if any(CHINESE[0] <= letter <= CHINESE[1] for letter in text):
        return "zhen" if any("a" <= letter.lower() <= "z" for letter in text) else "zh"
    return "en"


def seed_all(seed: int) -> None:
    """Let everything that draws lots draw the same ones."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - IndexTTS2's libraries use the old one
    torch.manual_seed(seed)


def version_of(wanted: dict[str, Any]) -> str:
    """What the sound depends on besides the files, which the server looks at."""
    import torch

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return f"{wanted['version']} torch {torch.__version__} {where}"


def main() -> None:
    """Load the model, and follow orders until there are no more."""
    answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print is for the log.
    os.dup2(2, 1)
    sys.path[0] = os.getcwd()  # noqa: PTH109 - a script's own folder stood there
    wanted = json.loads(sys.argv[1])

    def say(**line: Any) -> None:
        print(json.dumps(line), file=answers, flush=True)

    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES") and not torch.cuda.is_available():
        sys.exit("the server gave it a GPU, and its PyTorch finds none; install one with CUDA into its environment")
    speaker = Speaker(wanted, say)
    say(ready=True, protocol=1, sample_rate=SAMPLE_RATE, name="index-tts2", version=version_of(wanted))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            speaker.speak(order)
        except WrongInput as error:
            say(id=order["id"], error=str(error), is_input_wrong=True)
        except Exception as error:  # noqa: BLE001 - whatever an order brings must end it alone
            traceback.print_exc()
            if torch.cuda.is_available():
                # Raises what ends the program if CUDA broke down, for this process for good.
                torch.cuda.synchronize()
            say(id=order["id"], error=f"{type(error).__name__}: {error}")
        else:
            say(id=order["id"], ok=True)


if __name__ == "__main__":
    main()
