"""From files to an engine that has said its first word."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import cast

import torch

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.codec import load_codec
from dia_server.models.dia.engine import DiaEngine
from dia_server.models.dia.files import whole
from dia_server.models.dia.memory import need_of
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.runtime import Runtime
from dia_server.models.dia.setup import NAME, DiaSetup
from dia_server.models.dia.weights import load_weights
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hub import advising, revision_of
from dia_server.models.memory import granted
from dia_server.models.protocol import DeviceName, Engine
from dia_server.tasks import Audio, Ending, Failed, Speak

PACKAGES = ("torch", "numpy", "soxr")
# Where the recordings' codes are kept, if the home has not said.
CACHE = Path.home() / ".cache" / "dia-server"


def load(threads: int, setup: DiaSetup) -> Engine:
    """Load network and codec, and say a word, since the first one costs seconds.

    Raises:
        ModelUnavailable: the weights aren't here, or damaged, or don't fit; or the GPU can't be used.
    """
    torch.set_num_threads(threads)
    # oneDNN keeps what it has prepared for a thousand shapes, more than 100 MB, as the last window of each clip has a
    # length of its own. The grid's windows need fewer than 200.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")
    name = _device()
    model, dac = whole(setup)
    need_of(setup, model, dac, name).check(*_free(name))
    be_deterministic()
    device, dtype = torch.device(name), getattr(torch, setup.dtype_on(name))
    with advising(NAME, setup.model):
        weights = load_weights(model, device, dtype)
    with advising(NAME, setup.dac):
        codec = load_codec(dac, device)
    runtime = Runtime(weights, setup.slots_on(name), is_compiled=setup.use_torch_compile)
    cache = Path(os.environ.get("DIA_CACHE", CACHE))
    known_as = fingerprint(
        NAME,
        packages=PACKAGES,
        revision=f"{revision_of(setup.model, model)} {revision_of(setup.dac, dac)}",
        dtype=setup.dtype_on(name),
        threads=threads,
        slots=runtime.slots.count,
        besides=(_type_of(name), f"compiled={setup.use_torch_compile}"),
    )
    # Half of what the model holds, so that two speakers have room.
    longest = runtime.most_frames * codec.hop_length / codec.sample_rate / 2
    prompts = Prompts(codec, cache / "prompts", known_as, longest)
    engine = DiaEngine(runtime, codec, prompts, known_as)
    _rehearse(engine)
    # Its manifest names tasks of its one kind only.
    return cast(Engine, engine)


def _device() -> DeviceName:
    """A GPU where this process is given one.

    Raises:
        ModelUnavailable: it is, and PyTorch can't use it.
    """
    if torch.cuda.is_available():
        return "cuda"
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        raise ModelUnavailable(
            f"PyTorch {torch.__version__} can't use the GPU here; install the one for its driver, as "
            "https://pytorch.org/get-started/locally/ says, or set `gpu_mode: cpu`"
        )
    return "cpu"


def _free(device: DeviceName) -> tuple[int, str]:
    """Bytes that may be taken, and of what."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0], "of the GPU's memory are free"
    # Where nobody tells, it has to be tried.
    return granted() or sys.maxsize, "of memory are free for each worker"


def be_deterministic() -> None:
    """Let the same products give the same bits each time, in the precision that they are asked in."""
    # Read when cuBLAS is first used.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _type_of(device: DeviceName) -> str:
    """The device's type, and what computes on it."""
    if device == "cpu":
        return "cpu"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def _rehearse(engine: DiaEngine) -> None:
    """Speak until there is sound.

    Raises:
        ModelUnavailable: there is none.
    """
    engine.admit(0, Speak(model="dia", text="Ready.", speaker="S1", seed=0))
    while True:
        for _, event in engine.step():
            if isinstance(event, Failed):
                raise ModelUnavailable(f"it can't speak: {event.message}")
            if isinstance(event, Audio | Ending):
                engine.cancel(0)
                return
