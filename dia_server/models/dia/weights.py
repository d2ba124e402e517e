"""A checkpoint's tensors as the runtime wants them: loaded by name, fused where one product serves several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.architecture import Architecture, read_architecture
from dia_server.models.dia.files import check_shape, files_of, lacking


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

    def __init__(
        self, architecture: Architecture, get: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._shapes = architecture.shapes()
        self._get = get
        self._device = device
        self._dtype = dtype

    def take(self, name: str, *, dtype: torch.dtype | None = None) -> Tensor:
        name = f"{name}.weight"
        tensor = self._get(name).detach()
        check_shape(name, tuple(tensor.shape), self._shapes[name])
        return tensor.to(self._device, dtype or self._dtype)

    def fused(self, prefix: str, *names: str) -> Tensor:
        """Matrices on top of each other, so that one product serves all."""
        return torch.cat([self.take(f"{prefix}.{name}") for name in names])


def load_weights(folder: Path, device: torch.device, dtype: torch.dtype) -> Weights:
    """Read a checkpoint's folder, as transformers writes it.

    Raises:
        ModelUnavailable: a file or a tensor is missing, damaged or of another shape.
    """
    architecture = read_architecture(folder)
    with opened(folder) as get:
        return take_weights(architecture, get, device, dtype)


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from names to tensors, while the checkpoint's files are open.

    Raises:
        ModelUnavailable: a file or a tensor is missing, or damaged.
    """
    with ExitStack() as stack, _blaming(folder):
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in files_of(folder)]
        where = {key: file for file in files for key in file.keys()}  # noqa: SIM118 - these are no mappings

        def get(name: str) -> Tensor:
            if name not in where:
                raise lacking(folder, name)
            tensor: Tensor = where[name].get_tensor(name)
            return tensor

        yield get


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ModelUnavailable(f"A file of weights in {folder} is damaged or only half there: {error}") from None


def take_weights(
    architecture: Architecture, get: Callable[[str], Tensor], device: torch.device, dtype: torch.dtype
) -> Weights:
    """Put a checkpoint's tensors together; `get` has them by their names.

    Raises:
        ModelUnavailable: one has another shape.
    """
    source = _Source(architecture, get, device, dtype)
    encoder, decoder = architecture.encoder_config, architecture.decoder_config
    return Weights(
        architecture=architecture,
        text_embedding=source.take("model.encoder.embedding"),
        encoder_layers=tuple(_encoder_layer(source, layer) for layer in range(encoder.num_hidden_layers)),
        encoder_norm=source.take("model.encoder.norm"),
        code_embedding=source.take("model.decoder.embeddings.embed"),
        decoder_layers=tuple(_decoder_layer(source, layer) for layer in range(decoder.num_hidden_layers)),
        decoder_norm=source.take("model.decoder.norm"),
        head=source.take("logits_dense", dtype=torch.float32),
    )


def _encoder_layer(source: _Source, layer: int) -> EncoderLayer:
    prefix = f"model.encoder.layers.{layer}"
    return EncoderLayer(
        attention_norm=source.take(f"{prefix}.pre_sa_norm"),
        qkv=source.fused(f"{prefix}.self_attention", "q_proj", "k_proj", "v_proj"),
        out=source.take(f"{prefix}.self_attention.o_proj"),
        mlp_norm=source.take(f"{prefix}.post_sa_norm"),
        gate_up=source.take(f"{prefix}.mlp.gate_up_proj"),
        down=source.take(f"{prefix}.mlp.down_proj"),
    )


def _decoder_layer(source: _Source, layer: int) -> DecoderLayer:
    prefix = f"model.decoder.layers.{layer}"
    return DecoderLayer(
        self_norm=source.take(f"{prefix}.pre_sa_norm"),
        self_qkv=source.fused(f"{prefix}.self_attention", "q_proj", "k_proj", "v_proj"),
        self_out=source.take(f"{prefix}.self_attention.o_proj"),
        cross_norm=source.take(f"{prefix}.pre_ca_norm"),
        cross_q=source.take(f"{prefix}.cross_attention.q_proj"),
        cross_kv=source.fused(f"{prefix}.cross_attention", "k_proj", "v_proj"),
        cross_out=source.take(f"{prefix}.cross_attention.o_proj"),
        mlp_norm=source.take(f"{prefix}.pre_mlp_norm"),
        gate_up=source.take(f"{prefix}.mlp.gate_up_proj"),
        down=source.take(f"{prefix}.mlp.down_proj"),
    )
