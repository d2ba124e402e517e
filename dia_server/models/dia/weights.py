"""A checkpoint's tensors as the runtime wants them: loaded by name, fused where one product serves several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.architecture import Architecture, read_architecture

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class EncoderLayer(NamedTuple):
    """One layer of the text encoder; matrices are (out, in), as in the checkpoint."""

    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class DecoderLayer(NamedTuple):
    """One layer of the decoder."""

    self_norm: Tensor
    self_qkv: Tensor
    self_out: Tensor
    cross_norm: Tensor
    cross_q: Tensor
    cross_kv: Tensor
    cross_out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


class Weights(NamedTuple):
    """All of a checkpoint.

    Attributes:
        text_embedding: (256, encoder hidden).
        code_embedding: (channels * vocabulary, decoder hidden); the row of a code is `channel * vocabulary + id`.
        head: (channels * vocabulary, decoder hidden), in float32 whatever the others are: attention without scaling
            makes logits large, and sampling sees their differences.
    """

    architecture: Architecture
    text_embedding: Tensor
    encoder_layers: tuple[EncoderLayer, ...]
    encoder_norm: Tensor
    code_embedding: Tensor
    decoder_layers: tuple[DecoderLayer, ...]
    decoder_norm: Tensor
    head: Tensor

    @property
    def device(self) -> torch.device:
        return self.head.device

    @property
    def dtype(self) -> torch.dtype:
        return self.code_embedding.dtype


class _Source:
    """Named tensors of a checkpoint, each checked for its shape as it is taken."""

    def __init__(self, get: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype) -> None:
        self._get = get
        self._device = device
        self._dtype = dtype

    def take(self, name: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        tensor = self._get(f"{name}.weight").detach()
        if tensor.shape != shape:
            raise ModelUnavailable(f"{name} has the shape {tuple(tensor.shape)}, and config.json makes it {shape}")
        return tensor.to(self._device, dtype or self._dtype)

    def fused(self, prefix: str, names: tuple[str, ...], rows: tuple[int, ...], columns: int) -> Tensor:
        """Matrices on top of each other, so that one product serves all."""
        parts = zip(names, rows, strict=True)
        return torch.cat([self.take(f"{prefix}.{name}", count, columns) for name, count in parts])


def load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> Weights:
    """Read a checkpoint's folder, as transformers writes it.

    Raises:
        ModelUnavailable: a file or a tensor is missing, damaged or of another shape.
    """
    architecture = read_architecture(folder)
    try:
        with _opened(folder) as get:
            return take_weights(architecture, get, device, dtype)
    except SafetensorError as error:
        raise ModelUnavailable(
            f"A file of weights in {folder} is damaged or only half there: {error}; `dia-server models pull dia` "
            "completes it"
        ) from None


@contextmanager
def _opened(folder: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from names to tensors, while the checkpoint's files are open."""
    with ExitStack() as stack:
        files = []
        for path in sorted({folder / name for name in _files(folder)}):
            if not path.exists():
                raise ModelUnavailable(f"{path} is not there; `dia-server models pull dia` fetches what is missing")
            files.append(stack.enter_context(safe_open(path, framework="pt")))
        where = {key: file for file in files for key in file.keys()}  # noqa: SIM118 - these are no mappings

        def get(name: str) -> Tensor:
            if name not in where:
                raise ModelUnavailable(f"{folder} lacks the tensor {name}; is it a Dia in the layout of transformers?")
            tensor: Tensor = where[name].get_tensor(name)
            return tensor

        yield get


def _files(folder: Path) -> list[str]:
    index = folder / INDEX_FILE
    if not index.exists():
        return [SINGLE_FILE]
    try:
        return list(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
    except msgspec.DecodeError as error:
        raise ModelUnavailable(f"{index} is damaged: {error}; delete it and pull again") from None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def take_weights(
    architecture: Architecture, get: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype
) -> Weights:
    """Put a checkpoint's tensors together; `get` has them by their names.

    Raises:
        ModelUnavailable: one has another shape.
    """
    source = _Source(get, device, dtype)
    encoder, decoder = architecture.encoder_config, architecture.decoder_config
    codes = decoder.num_channels * decoder.vocab_size
    return Weights(
        architecture=architecture,
        text_embedding=source.take("model.encoder.embedding", encoder.vocab_size, encoder.hidden_size),
        encoder_layers=tuple(_encoder_layers(architecture, source)),
        encoder_norm=source.take("model.encoder.norm", encoder.hidden_size),
        code_embedding=source.take("model.decoder.embeddings.embed", codes, decoder.hidden_size),
        decoder_layers=tuple(_decoder_layers(architecture, source)),
        decoder_norm=source.take("model.decoder.norm", decoder.hidden_size),
        head=source.take("logits_dense", codes, decoder.hidden_size, dtype=torch.float32),
    )


def _encoder_layers(architecture: Architecture, source: _Source) -> Iterator[EncoderLayer]:
    numbers = architecture.encoder_config
    hidden, inner = numbers.hidden_size, numbers.intermediate_size
    queries, keys = numbers.num_attention_heads * numbers.head_dim, numbers.num_key_value_heads * numbers.head_dim
    for layer in range(numbers.num_hidden_layers):
        prefix = f"model.encoder.layers.{layer}"
        attention = f"{prefix}.self_attention"
        yield EncoderLayer(
            attention_norm=source.take(f"{prefix}.pre_sa_norm", hidden),
            qkv=source.fused(attention, ("q_proj", "k_proj", "v_proj"), (queries, keys, keys), hidden),
            out=source.take(f"{attention}.o_proj", hidden, queries),
            mlp_norm=source.take(f"{prefix}.post_sa_norm", hidden),
            gate_up=source.take(f"{prefix}.mlp.gate_up_proj", 2 * inner, hidden),
            down=source.take(f"{prefix}.mlp.down_proj", hidden, inner),
        )


def _decoder_layers(architecture: Architecture, source: _Source) -> Iterator[DecoderLayer]:
    numbers = architecture.decoder_config
    hidden, inner, text = numbers.hidden_size, numbers.intermediate_size, numbers.cross_hidden_size
    queries, keys = numbers.num_attention_heads * numbers.head_dim, numbers.num_key_value_heads * numbers.head_dim
    cross = numbers.cross_num_attention_heads * numbers.cross_head_dim
    cross_keys = numbers.cross_num_key_value_heads * numbers.cross_head_dim
    for layer in range(numbers.num_hidden_layers):
        prefix = f"model.decoder.layers.{layer}"
        yield DecoderLayer(
            self_norm=source.take(f"{prefix}.pre_sa_norm", hidden),
            self_qkv=source.fused(
                f"{prefix}.self_attention", ("q_proj", "k_proj", "v_proj"), (queries, keys, keys), hidden
            ),
            self_out=source.take(f"{prefix}.self_attention.o_proj", hidden, queries),
            cross_norm=source.take(f"{prefix}.pre_ca_norm", hidden),
            cross_q=source.take(f"{prefix}.cross_attention.q_proj", cross, hidden),
            cross_kv=source.fused(f"{prefix}.cross_attention", ("k_proj", "v_proj"), (cross_keys, cross_keys), text),
            cross_out=source.take(f"{prefix}.cross_attention.o_proj", hidden, cross),
            mlp_norm=source.take(f"{prefix}.pre_mlp_norm", hidden),
            gate_up=source.take(f"{prefix}.mlp.gate_up_proj", 2 * inner, hidden),
            down=source.take(f"{prefix}.mlp.down_proj", hidden, inner),
        )
