"""How much memory the model takes, told from its files before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from dia_server.models.dia.architecture import Decoder, read_architecture
from dia_server.models.dia.files import SINGLE_FILE, files_of, parameters
from dia_server.models.dia.setup import NAME, DiaSetup
from dia_server.models.memory import GB, Need
from dia_server.models.protocol import DeviceName

# For a prompt's rows being computed, windows being decoded, and kernels.
RESERVE = 2 * GB
# What graphs of steps hold besides, on a GPU. Their temporary tensors are in one pool that all of them share, where
# memory that a graph gave back serves the next one: as much as the largest step takes, 2 MB a slot. And the driver
# keeps what it launches, 60 graphs of a thousand kernels each: some 24 MB a graph, as measured of a model's in vLLM
# (its issue 50780). Drivers before 550 took 64 KB a kernel (PyTorch's page on CUDAGraph Trees), which would be 4 GB.
GRAPHS = 2 * GB

_ITEM_SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}


def slot_bytes(decoder: Decoder, positions: int, text_positions: int, item_size: int) -> int:
    """The caches of one slot: keys and values of every layer, with and without text; of the text only with it."""
    rows = 2 * positions * decoder.num_key_value_heads * decoder.head_dim
    text = text_positions * decoder.cross_num_key_value_heads * decoder.cross_head_dim
    return 2 * decoder.num_hidden_layers * (rows + text) * item_size


def need_of(setup: DiaSetup, model: Path, codec: Path, device: DeviceName) -> Need:
    """What a worker takes on a device; the folders are those of the network and of the codec.

    Raises:
        ModelUnavailable: a file is missing or damaged.
    """
    architecture = read_architecture(model)
    decoder, item_size = architecture.decoder_config, _ITEM_SIZES[setup.dtype_on(device)]
    # The head and the codec are float32 whatever the rest is.
    head = decoder.num_channels * decoder.vocab_size * decoder.hidden_size
    network = sum(parameters(path) for path in files_of(model))
    weights = network * item_size + head * (4 - item_size) + parameters(codec / SINGLE_FILE) * 4
    positions, text_positions = decoder.max_position_embeddings, architecture.encoder_config.max_position_embeddings
    slot = slot_bytes(decoder, positions, text_positions, item_size)
    reserve = RESERVE + (GRAPHS if device == "cuda" else 0)
    return Need(NAME, weights, slot, setup.slots_on(device), reserve)
