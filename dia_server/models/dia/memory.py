"""How much memory the model takes, told from its files before anything is loaded."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.architecture import Decoder, read_architecture
from dia_server.models.dia.setup import DiaSetup

GB = 1_000_000_000
# For a prompt's rows being computed, windows being decoded, and kernels.
RESERVE = 2 * GB
# What graphs of steps hold besides, on a GPU. Their temporary tensors are in one pool that all of them share, where
# memory that a graph gave back serves the next one: as much as the largest step takes, 2 MB a slot. And the driver
# keeps what it launches, 60 graphs of a thousand kernels each: some 24 MB a graph, as measured of a model's in vLLM
# (its issue 50780). Drivers before 550 took 64 KB a kernel (PyTorch's page on CUDAGraph Trees), which would be 4 GB.
GRAPHS = 2 * GB

_ITEM_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}
_LENGTH = struct.Struct("<Q")


class Need(NamedTuple):
    """Bytes: of weights and codec, of the caches of each slot, and of all else."""

    weights: int
    slot: int
    slots: int
    reserve: int = RESERVE

    @property
    def total(self) -> int:
        """All, with the reserve."""
        return self.weights + self.slot * self.slots + self.reserve

    def slots_in(self, free: int) -> int:
        """How many slots fit into so much."""
        return max(0, (free - self.weights - self.reserve) // self.slot)

    def check(self, free: int, where: str) -> None:
        """Whether it fits; `where` says what is free.

        Raises:
            ModelUnavailable: it doesn't; the message says how many slots would.
        """
        if self.total <= free:
            return
        fitting = self.slots_in(free)
        advice = f"set `slots` under `models: dia:` to {fitting}" if fitting else "free some, or use another machine"
        raise ModelUnavailable(
            f"model 'dia' with {self.slots} slots needs {self.total / GB:.1f} GB ({self.weights / GB:.1f} for weights, "
            f"{self.slot / GB:.2f} for each slot, {self.reserve / GB:.1f} in reserve), and {free / GB:.1f} GB {where} "
            f"are free, in which {fitting} slots fit; {advice}"
        )


def slot_bytes(decoder: Decoder, positions: int, text_positions: int, item_size: int) -> int:
    """The caches of one slot: keys and values of every layer, with and without text; of the text only with it."""
    rows = 2 * positions * decoder.num_key_value_heads * decoder.head_dim
    text = text_positions * decoder.cross_num_key_value_heads * decoder.cross_head_dim
    return 2 * decoder.num_hidden_layers * (rows + text) * item_size


def need_of(setup: DiaSetup, model: Path, codec: Path, device: Literal["cuda", "cpu"]) -> Need:
    """What a worker takes on a device; the folders are those of the network and of the codec.

    Raises:
        ModelUnavailable: a file is missing or damaged.
    """
    architecture = read_architecture(model)
    decoder, item_size = architecture.decoder_config, _ITEM_SIZES[setup.dtype_on(device)]
    # The head and the codec are float32 whatever the rest is.
    head = decoder.num_channels * decoder.vocab_size * decoder.hidden_size
    weights = _parameters(model) * item_size + head * (4 - item_size) + _parameters(codec) * 4
    positions, text_positions = decoder.max_position_embeddings, architecture.encoder_config.max_position_embeddings
    slot = slot_bytes(decoder, positions, text_positions, item_size)
    return Need(weights, slot, setup.slots_on(device), RESERVE + (GRAPHS if device == "cuda" else 0))


class _Tensor(msgspec.Struct):
    shape: list[int] = []


def _parameters(folder: Path) -> int:
    """Of all weights in a folder, by the headers of its files."""
    return sum(_parameters_in(path) for path in sorted(folder.glob("*.safetensors")))


def _parameters_in(path: Path) -> int:
    """Of one file: eight bytes of length, that much JSON, then the numbers (safetensors' own documentation)."""
    try:
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            header = msgspec.json.decode(file.read(min(length, path.stat().st_size)), type=dict[str, _Tensor])
    except (OSError, ValueError, struct.error) as error:
        raise ModelUnavailable(
            f"{path} is damaged or only half there: {error}; delete it and run `dia-server models pull dia`"
        ) from None
    header.pop("__metadata__", None)
    return sum(math.prod(tensor.shape) for tensor in header.values())
