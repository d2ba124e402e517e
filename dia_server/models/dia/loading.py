"""From files to an engine that has said its first word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, cast

import torch
from transformers.utils import logging

from dia_server.errors import ModelUnavailable
from dia_server.models.dia import MANIFEST
from dia_server.models.dia.codec import Codec, load_codec
from dia_server.models.dia.engine import DiaEngine
from dia_server.models.dia.memory import need_of
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.runtime import Runtime
from dia_server.models.dia.setup import DiaSetup
from dia_server.models.dia.weights import Weights, load_weights
from dia_server.models.fingerprint import fingerprint
from dia_server.models.hub import locate, revision_of
from dia_server.models.protocol import Engine
from dia_server.tasks import Audio, Ending, Failed, Speak

PACKAGES = ("torch", "transformers", "numpy", "soxr")
# Where the recordings' codes are kept, if the home has not said.
CACHE = Path.home() / ".cache" / "dia-server"

DeviceName = Literal["cuda", "cpu"]


def load(threads: int, setup: DiaSetup) -> Engine:
    """Load network and codec, and say a word, since the first one costs seconds.

    Raises:
        ModelUnavailable: the weights aren't here, or damaged, or don't fit; or the GPU can't be used.
    """
    torch.set_num_threads(threads)
    # oneDNN keeps what it has prepared for a thousand shapes, more than 100 MB, as the last window of each clip has a
    # length of its own. The grid's windows need fewer than 200.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")
    # What it draws and warns of would stand in the log beside our own words for it.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    name = _device()
    model, dac = locate("dia", setup.model), locate("dia", setup.dac)
    need_of(setup, model, dac, name).check(*_free(name))
    be_deterministic()
    device, dtype = torch.device(name), getattr(torch, setup.dtype_on(name))
    weights, codec = load_weights(model, device, dtype), load_codec(dac, device)
    _check_pair(weights, codec)
    runtime = Runtime(weights, setup.slots_on(name), is_compiled=setup.use_torch_compile)
    known_as = fingerprint(
        "dia",
        packages=PACKAGES,
        revision=f"{revision_of(setup.model, model)} {revision_of(setup.dac, dac)}",
        dtype=setup.dtype_on(name),
        threads=threads,
        slots=runtime.slots.count,
        besides=(_type_of(name), f"compiled={setup.use_torch_compile}"),
    )
    # Half of what the model holds, so that two speakers have room.
    longest = runtime.most_frames * codec.hop_length / codec.sample_rate / 2
    prompts = Prompts(codec, Path(os.environ.get("DIA_CACHE", CACHE)) / "prompts", known_as, longest)
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
        return torch.cuda.mem_get_info()[0], "of the GPU's memory"
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024, "of memory"
    # Elsewhere nobody tells what is free.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "of memory"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


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


def _check_pair(weights: Weights, codec: Codec) -> None:
    """Whether the codec speaks the network's codes.

    Raises:
        ModelUnavailable: it is another one.
    """
    channels = weights.architecture.decoder_config.num_channels
    if (codec.codebooks, codec.sample_rate) != (channels, MANIFEST.sample_rate):
        raise ModelUnavailable(
            f"the codec has {codec.codebooks} codebooks at {codec.sample_rate} Hz, and the model speaks {channels} at "
            f"{MANIFEST.sample_rate} Hz; set `codec` under `models: dia:` to descript/dac_44khz"
        )


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
