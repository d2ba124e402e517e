"""The engine: VoxCPM's own package, one segment at a time on a thread of the worker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import numpy as np
import torch
from voxcpm import VoxCPM

from dia_server.errors import ModelUnavailable
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hub import locate, revision_of
from dia_server.models.protocol import Engine
from dia_server.models.recording import BadRecording, read_reference
from dia_server.models.stepped import Stepped, Tick
from dia_server.models.voxcpm import MANIFEST, VoxCpmOptions, VoxCpmSetup
from dia_server.tasks import Audio, Done, Ending, Failed, Speak

PACKAGES = ("voxcpm", "torch", "transformers", "numpy")
# What may be compiled, which must not be looked into; the layers beside it run once for each patch of sound.
COMPILED = frozenset({"base_lm", "residual_lm", "feat_encoder", "feat_decoder"})


def load(threads: int, setup: VoxCpmSetup) -> Engine:
    """Load the weights, and the denoiser if one is named.

    Raises:
        ModelUnavailable: these weights make another kind of sound.
    """
    torch.set_num_threads(threads)
    folder = locate("voxcpm", setup.repository)
    device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"
    model = VoxCPM(
        str(folder),
        zipenhancer_model_path=setup.denoiser,
        enable_denoiser=setup.denoiser is not None,
        optimize=setup.use_torch_compile,
        device=device,
    )
    if model.tts_model.sample_rate != MANIFEST.sample_rate:
        raise ModelUnavailable(
            f"its weights in {folder} make {model.tts_model.sample_rate} Hz; name those of VoxCPM2, which make "
            f"{MANIFEST.sample_rate} Hz"
        )
    name = fingerprint(
        "voxcpm",
        packages=PACKAGES,
        revision=revision_of(setup.repository, folder),
        dtype=str(model.tts_model.config.dtype),
        threads=threads,
        slots=Stepped.slots,
        besides=(
            torch.cuda.get_device_name() if device == "cuda" else "cpu",
            f"denoiser={setup.denoiser} compile={setup.use_torch_compile}",
        ),
    )
    return Stepped(Speaker(model).speak, name)


class Speaker:
    """The loaded model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def speak(self, task: Speak, tick: Tick) -> Ending:
        """Say the task's text."""
        options = msgspec.convert(task.options, VoxCpmOptions)
        if options.denoise and self._model.denoiser is None:
            return Failed(
                "'denoise' wants a denoiser; name a ZipEnhancer as `models: voxcpm: denoiser` in config.yaml",
                is_unavailable=True,
            )
        if not any(letter.isalnum() for letter in task.text):
            # What it would say of punctuation is babble.
            return Done(samples=0)
        try:
            recordings = _recordings(task)
        except BadRecording as error:
            return Failed(str(error), is_input_wrong=True)
        torch.manual_seed(task.seed)
        with ticking(self._model.tts_model, tick):
            samples = self._model.generate(task.text, **recordings, **_arguments(options))
        pcm = np.ascontiguousarray(samples, dtype="<f4").reshape(-1)
        tick(Audio(first_sample=0, pcm=pcm.tobytes()))
        return Done(samples=len(pcm))


def _arguments(options: VoxCpmOptions) -> dict[str, Any]:
    # With 0 it would make nothing, retries or not.
    times = max(1, options.retry_badcase_max_times)
    arguments: dict[str, Any] = msgspec.to_builtins(options) | {"retry_badcase_max_times": times}
    return arguments


def _recordings(task: Speak) -> dict[str, str]:
    """Whom to imitate: where it is known what is said, the segment goes on from it too, which is closer."""
    reference = task.references.get(task.speaker)
    if reference is None:
        return {}
    read_reference(reference)
    recordings = {"reference_wav_path": reference.path}
    if reference.transcript:
        recordings |= {"prompt_wav_path": reference.path, "prompt_text": reference.transcript}
    return recordings


@contextmanager
def ticking(network: Any, tick: Tick) -> Iterator[None]:
    """Let the network tick as it computes, within the block."""
    watched = [part for name, child in network.named_children() if name not in COMPILED for part in child.modules()]
    hooks = [part.register_forward_pre_hook(lambda *_: tick()) for part in watched]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
