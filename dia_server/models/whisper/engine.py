"""The engine: weights loaded when a task first needs them, and kept until one needs others."""

from __future__ import annotations

import logging
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
import whisper
from whisper.model import ResidualAttentionBlock

from dia_server.audio.samples import Samples
from dia_server.errors import DownloadFailed
from dia_server.models.download import fetch
from dia_server.models.fingerprint import fingerprint
from dia_server.models.protocol import Engine, NoSetup
from dia_server.models.stepped import Stepped, Tick
from dia_server.models.whisper import MANIFEST, stand_in
from dia_server.models.whisper.weights import BUNDLED, file_of, folder, is_english_only
from dia_server.tasks import Done, Ending, Failed, Transcribe

# As openai-whisper's own: where the likeliest words make no sense, others are drawn.
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
NUMBERS = ("avg_logprob", "compression_ratio", "no_speech_prob", "temperature")

log = logging.getLogger(__name__)


def load(threads: int, setup: NoSetup) -> Engine:
    """An engine that has no weights yet."""
    del setup
    torch.set_num_threads(threads)
    on_gpu = torch.cuda.is_available()
    return Stepped(
        Listener().listen,
        fingerprint(
            "whisper",
            packages=("openai-whisper", "torch", "numpy"),
            revision=torch.cuda.get_device_name() if on_gpu else "",
            dtype="float16" if on_gpu else "float32",
            threads=threads,
            slots=Stepped.slots,
        ),
    )


class Listener:
    """The weights that listened last."""

    def __init__(self) -> None:
        self._wanted = self._size = ""
        self._model: Any = None

    def listen(self, task: Transcribe, tick: Tick) -> Ending:
        """What is said in the task's recording. Draws are the same each time."""
        try:
            self._load(task, tick)
        except DownloadFailed as error:
            return Failed(error.message, is_unavailable=True)
        if is_english_only(self._size) and (task.is_translation or task.language not in (None, "en")):
            return Failed(self._english_only(task), is_unavailable=True)
        samples, seconds = read(Path(task.path))
        torch.manual_seed(0)
        with ticking(self._model, tick):
            heard = self._model.transcribe(
                samples,
                task="translate" if task.is_translation else "transcribe",
                language=task.language,
                initial_prompt=task.prompt,
                temperature=task.temperature or TEMPERATURES,
                word_timestamps=task.with_words,
                fp16=self._model.device.type == "cuda",
            )
        return Done(samples=0, value=_value(heard, seconds) | {"seconds": seconds, "size": self._size})

    def _load(self, task: Transcribe, tick: Tick) -> None:
        if task.size == self._size or (task.size == self._wanted and not task.is_strict):
            return
        # Two sizes at once may not fit.
        self._wanted, self._size, self._model = "", "", None
        self._size, self._model = _weights(task, tick)
        self._wanted = task.size

    def _english_only(self, task: Transcribe) -> str:
        if self._size == task.size:
            return f"Whisper's {self._size} knows English only; set `whisper_model_size` to a size without '.en'"
        return (
            f"Whisper's {task.size} can't be fetched, and {self._size}, which stands in for it, knows English only; "
            "fetch it with `dia-server models pull whisper`"
        )


def _weights(task: Transcribe, tick: Tick) -> tuple[str, Any]:
    """The model of the task's size, or the bundled one where it can't be had, with its size.

    Raises:
        DownloadFailed: it can't be had, and the task takes no other.
    """
    if task.size != BUNDLED:
        file = file_of(task.size)
        try:
            if not file.path.exists():
                fetch(file, lambda _: tick())
            return task.size, whisper.load_model(task.size, download_root=str(folder()))
        except DownloadFailed as error:
            if task.is_strict:
                raise
            log.warning("%s. Until then %s listens in place of %s.", error.message.rstrip("."), BUNDLED, task.size)
    return BUNDLED, stand_in.load()


@contextmanager
def ticking(model: Any, tick: Tick) -> Iterator[None]:
    """Let each layer of the model tick before its work, within the block."""
    layers = [module for module in model.modules() if isinstance(module, ResidualAttentionBlock)]
    hooks = [layer.register_forward_pre_hook(lambda *_: tick()) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def read(path: Path) -> tuple[Samples, float]:
    """The samples of a 16-bit wav file as mono at 16 kHz, and its seconds."""
    with wave.open(str(path), "rb") as file:
        rate, count, channels = file.getframerate(), file.getnframes(), file.getnchannels()
        frames = np.frombuffer(file.readframes(count), "<i2").reshape(-1, channels)
    samples = frames.mean(axis=1, dtype=np.float32) / np.float32(32768)
    return soxr.resample(samples, rate, MANIFEST.sample_rate).astype(np.float32, copy=False), count / rate


def _value(heard: dict[str, Any], seconds: float) -> dict[str, Any]:
    # openai-whisper keeps what it discarded, with an empty text.
    segments = [_segment(segment, seconds) for segment in heard["segments"] if segment["text"].strip()]
    return {"text": heard["text"].strip(), "language": heard["language"], "segments": segments}


def _segment(segment: dict[str, Any], seconds: float) -> dict[str, Any]:
    words = [_timed(word, seconds) | {"word": word["word"].strip()} for word in segment.get("words", ())]
    numbers = {name: float(segment[name]) for name in NUMBERS}
    fields = {"text": segment["text"].strip(), "seek": int(segment["seek"]), "tokens": segment["tokens"]}
    return _timed(segment, seconds) | fields | numbers | {"words": words}


def _timed(part: dict[str, Any], seconds: float) -> dict[str, Any]:
    # Whisper listens to 30 s at a time, filled up with silence, and may hear an end in there.
    return {edge: round(min(float(part[edge]), seconds), 3) for edge in ("start", "end")}
