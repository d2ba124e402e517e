"""Dia and its codec with random weights: at full size, shared with transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from transformers import DiaConfig, DiaForConditionalGeneration

from dia_server.models.dia.architecture import Architecture, DacArchitecture
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.dac import Dac
from dia_server.models.dia.loading import be_deterministic
from dia_server.models.dia.runtime import Reading, Runtime
from dia_server.models.dia.slots import Slots
from dia_server.models.dia.weights import Weights, take_weights

FRAMES_PER_SECOND = 44_100 / 512
CODES, CHANNELS = 1024, 9
# Spreads logits as far as trained ones.
SPREAD = 0.02
TEXT = b"\x01" + b"The morning train to the coast leaves at half past seven, and it is hardly ever late. " * 2


class Pair(NamedTuple):
    """The same weights twice."""

    reference: DiaForConditionalGeneration
    weights: Weights


def device() -> torch.device:
    """A GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def where() -> str:
    """What computes, in words."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def pair(dtype: torch.dtype) -> Pair:
    """Dia-1.6B as its configuration has it, with random weights."""
    be_deterministic()
    with torch.device("meta"):
        reference = DiaForConditionalGeneration(DiaConfig())
    reference = reference.to(dtype).to_empty(device=device()).eval()
    generator = torch.Generator(device=device()).manual_seed(0)
    with torch.no_grad():
        for name, tensor in reference.named_parameters():
            tensor.fill_(1.0) if name.endswith("norm.weight") else tensor.normal_(std=SPREAD, generator=generator)
        _fill_buffers(reference)
    numbers = msgspec.convert({"model_type": "dia"}, Architecture)
    state = reference.state_dict()
    return Pair(reference, take_weights(numbers, state.__getitem__, device(), dtype))


def _fill_buffers(reference: DiaForConditionalGeneration) -> None:
    """Tables that are computed when a model is made, which one on the meta device lacks."""
    decoder = reference.config.decoder_config
    reference.model.decoder.embeddings.offsets.copy_(torch.arange(decoder.num_channels) * decoder.vocab_size)
    for stack in (reference.model.encoder, reference.model.decoder):
        table, _ = stack.rotary_emb.compute_default_rope_parameters(stack.config)
        stack.rotary_emb.inv_freq.copy_(table)


def codec() -> Codec:
    """DAC at 44.1 kHz as `descript/dac_44khz` configures it."""
    be_deterministic()
    generator = torch.Generator(device()).manual_seed(0)
    architecture = DacArchitecture(sampling_rate=44_100)
    made = {
        name: torch.randn(shape, generator=generator, device=device()) * SPREAD
        for name, shape in architecture.shapes().items()
    }
    return Codec(Dac(architecture, made), device())


def reading(seed: int, frames: int, prompt: int = 0, text: bytes = TEXT, **wanted: Any) -> Reading:
    """A request of `frames` frames behind a prompt of as many random ones."""
    codes = np.random.default_rng(seed).integers(0, CODES, (prompt, CHANNELS))
    return Reading(text=text, prompt=codes, most_frames=frames, seed=seed, **wanted)


def begin(runtime: Runtime, slot: int, wanted: Reading) -> None:
    """Prepare a slot and let it speak."""
    for _ in runtime.fill(slot, wanted):
        pass
    runtime.start(slot, wanted)


def bytes_of(weights: Weights, slots: int, position: int, text: int) -> int:
    """What a step reads at least: the decoder's weights once, and each slot's keys and values as far as they reach."""
    decoder = weights.architecture.decoder_config
    tensors = [tensor for layer in weights.decoder_layers for tensor in layer._replace(cross_kv=layer.cross_norm)]
    own = sum(tensor.nbytes for tensor in (*tensors, weights.head))
    rows = 2 * position * decoder.num_key_value_heads * decoder.head_dim
    read = text * decoder.cross_num_key_value_heads * decoder.cross_head_dim
    return own + slots * 2 * decoder.num_hidden_layers * (rows + read) * weights.dtype.itemsize


def synchronised(call: Callable[[], object]) -> None:
    """Call, and wait until the device has done what it was given."""
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_of_slot(weights: Weights) -> int:
    """Bytes that a slot's caches take."""
    return Slots.bytes_each(weights.architecture, weights.dtype)
