"""The numbers that a checkpoint's config.json says of its network, checked against what this runtime can compute."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dia_server.errors import ModelUnavailable

CONFIG_FILE = "config.json"

# Of the three residual units in each block of a DAC.
DAC_DILATIONS = (1, 3, 9)

Count = Annotated[int, msgspec.Meta(ge=1)]


class Rotary(msgspec.Struct, frozen=True):
    """Rotary position embedding of the plain kind."""

    rope_theta: float = 10_000.0
    rope_type: Literal["default"] = "default"


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """What encoder and decoder have in common."""

    norm_eps: float = 1e-5
    hidden_act: Literal["silu"] = "silu"
    rope_parameters: Rotary | None = None

    @property
    def theta(self) -> float:
        """The base of the rotations' wavelengths."""
        return (self.rope_parameters or Rotary()).rope_theta


class Encoder(Stack, frozen=True, kw_only=True):
    """The text encoder; defaults are those of Dia-1.6B (transformers 5.23, `configuration_dia.py`)."""

    max_position_embeddings: int = 1024
    num_hidden_layers: int = 12
    hidden_size: int = 1024
    num_attention_heads: int = 16
    num_key_value_heads: int = 16
    head_dim: int = 128
    intermediate_size: int = 4096
    vocab_size: int = 256

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors of one layer."""
        keys = self.num_key_value_heads * self.head_dim
        return {
            "pre_sa_norm": (self.hidden_size,),
            **_attention("self_attention", self.num_attention_heads * self.head_dim, keys, self.hidden_size),
            "post_sa_norm": (self.hidden_size,),
            **_gated("mlp", self.intermediate_size, self.hidden_size),
        }


class Decoder(Stack, frozen=True, kw_only=True):
    """The decoder of audio codes; defaults as above."""

    max_position_embeddings: int = 3072
    num_hidden_layers: int = 18
    hidden_size: int = 2048
    intermediate_size: int = 8192
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    head_dim: int = 128
    cross_num_attention_heads: int = 16
    cross_head_dim: int = 128
    cross_num_key_value_heads: int = 16
    cross_hidden_size: int = 1024
    vocab_size: int = 1028
    num_channels: int = 9
    pad_token_id: int = 1025
    eos_token_id: int = 1024
    bos_token_id: int = 1026

    def layer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors of one layer."""
        hidden, keys = self.hidden_size, self.num_key_value_heads * self.head_dim
        cross = self.cross_num_attention_heads * self.cross_head_dim
        cross_keys = self.cross_num_key_value_heads * self.cross_head_dim
        return {
            "pre_sa_norm": (hidden,),
            **_attention("self_attention", self.num_attention_heads * self.head_dim, keys, hidden),
            "pre_ca_norm": (hidden,),
            **_attention("cross_attention", cross, cross_keys, hidden, self.cross_hidden_size),
            "pre_mlp_norm": (hidden,),
            **_gated("mlp", self.intermediate_size, hidden),
        }


def _attention(
    prefix: str, queries: int, keys: int, hidden: int, source: int | None = None
) -> dict[str, tuple[int, ...]]:
    """Its matrices; `source` is the width of what is attended to, if it isn't the same."""
    source = source or hidden
    return {
        f"{prefix}.q_proj": (queries, hidden),
        f"{prefix}.k_proj": (keys, source),
        f"{prefix}.v_proj": (keys, source),
        f"{prefix}.o_proj": (hidden, queries),
    }


def _gated(prefix: str, inner: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.gate_up_proj": (2 * inner, hidden), f"{prefix}.down_proj": (hidden, inner)}


class Architecture(msgspec.Struct, frozen=True):
    """The whole network.

    Attributes:
        delay_pattern: rows by which each codebook comes later than the first one; the first is 0, the last the largest.
    """

    model_type: Literal["dia"]
    encoder_config: Encoder = Encoder()
    decoder_config: Decoder = Decoder()
    delay_pattern: tuple[int, ...] = (0, 8, 9, 10, 11, 12, 13, 14, 15)

    @property
    def max_delay(self) -> int:
        """Rows between a frame's first code and its last."""
        return self.delay_pattern[-1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by their names; matrices are (out, in), as in the checkpoint."""
        encoder, decoder = self.encoder_config, self.decoder_config
        codes = decoder.num_channels * decoder.vocab_size
        found: dict[str, tuple[int, ...]] = {
            "model.encoder.embedding": (encoder.vocab_size, encoder.hidden_size),
            "model.encoder.norm": (encoder.hidden_size,),
            "model.decoder.embeddings.embed": (codes, decoder.hidden_size),
            "model.decoder.norm": (decoder.hidden_size,),
            "logits_dense": (codes, decoder.hidden_size),
        }
        for part, numbers, shapes in (
            ("encoder", encoder, encoder.layer_shapes()),
            ("decoder", decoder, decoder.layer_shapes()),
        ):
            for layer in range(numbers.num_hidden_layers):
                found |= {f"model.{part}.layers.{layer}.{name}": shape for name, shape in shapes.items()}
        return {f"{name}.weight": shape for name, shape in found.items()}


class DacArchitecture(msgspec.Struct, frozen=True):
    """The codec; defaults are those of transformers (5.23, `configuration_dac.py`)."""

    encoder_hidden_size: Count = 64
    downsampling_ratios: tuple[Count, ...] = (2, 4, 8, 8)
    decoder_hidden_size: Count = 1536
    n_codebooks: Count = 9
    codebook_size: Count = 1024
    codebook_dim: Count = 8
    sampling_rate: Count = 16_000

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return math.prod(self.downsampling_ratios)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors, by their names; convolutions are (out, in, kernel), transposed ones (in, out, kernel)."""
        width, latent = self.encoder_hidden_size, self.encoder_hidden_size << len(self.downsampling_ratios)
        found = _convolution("encoder.conv1", width, 1, 7)
        for number, stride in enumerate(self.downsampling_ratios):
            block = f"encoder.block.{number}"
            found |= _residual_units(block, width) | _snake(f"{block}.snake1", width)
            found |= _convolution(f"{block}.conv1", 2 * width, width, 2 * stride)
            width *= 2
        found |= _snake("encoder.snake1", width) | _convolution("encoder.conv2", latent, width, 3)
        for number in range(self.n_codebooks):
            quantizer = f"quantizer.quantizers.{number}"
            found |= _convolution(f"{quantizer}.in_proj", self.codebook_dim, latent, 1)
            found |= _convolution(f"{quantizer}.out_proj", latent, self.codebook_dim, 1)
            found[f"{quantizer}.codebook.weight"] = (self.codebook_size, self.codebook_dim)
        width = self.decoder_hidden_size
        found |= _convolution("decoder.conv1", width, latent, 7)
        for number, stride in enumerate(reversed(self.downsampling_ratios)):
            block = f"decoder.block.{number}"
            found |= _snake(f"{block}.snake1", width)
            found[f"{block}.conv_t1.weight"] = (width, width // 2, 2 * stride)
            found[f"{block}.conv_t1.bias"] = (width // 2,)
            width //= 2
            found |= _residual_units(block, width)
        return found | _snake("decoder.snake1", width) | _convolution("decoder.conv2", 1, width, 7)


def _residual_units(block: str, width: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for number in range(1, len(DAC_DILATIONS) + 1):
        unit = f"{block}.res_unit{number}"
        found |= _snake(f"{unit}.snake1", width) | _convolution(f"{unit}.conv1", width, width, 7)
        found |= _snake(f"{unit}.snake2", width) | _convolution(f"{unit}.conv2", width, width, 1)
    return found


def _snake(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.alpha": (1, width, 1)}


def _convolution(name: str, out: int, source: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, source, kernel), f"{name}.bias": (out,)}


def read_config(folder: Path, kind: str) -> dict[str, Any]:
    """What `config.json` in a checkpoint's folder says, which has to be that of a model of this kind.

    Raises:
        ModelUnavailable: it is not there, damaged, of another kind, or of the layout that Dia had before transformers.
    """
    path = folder / CONFIG_FILE
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        raise ModelUnavailable(f"{folder} has no {CONFIG_FILE}") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ModelUnavailable(f"{path} is damaged: {error}") from None
    if {"model", "data"} <= raw.keys():
        raise ModelUnavailable(
            f"{folder} has the first layout of Dia's files, which only its authors' own program reads; take "
            "nari-labs/Dia-1.6B-0626, the same model in the layout of transformers"
        )
    found = raw.get("model_type")
    if found != kind:
        raise ModelUnavailable(f"{path} is that of a model of the type '{found}', and a '{kind}' belongs here")
    return raw


def read_architecture(folder: Path) -> Architecture:
    """The numbers of the network in a checkpoint's folder.

    Raises:
        ModelUnavailable: its `config.json` is not that of a Dia that can be computed here.
    """
    path = folder / CONFIG_FILE
    try:
        architecture = msgspec.convert(read_config(folder, "dia"), Architecture)
    except msgspec.ValidationError as error:
        raise ModelUnavailable(f"{path} is not that of a Dia that this server can run: {error}") from None
    delays = architecture.delay_pattern
    if len(delays) != architecture.decoder_config.num_channels or delays[0] != 0 or list(delays) != sorted(delays):
        raise ModelUnavailable(f"{path}: delay_pattern {list(delays)} can't be streamed")
    return architecture


def read_dac(folder: Path) -> DacArchitecture:
    """The numbers of the codec in a folder.

    Raises:
        ModelUnavailable: its `config.json` is not that of a DAC.
    """
    try:
        return msgspec.convert(read_config(folder, "dac"), DacArchitecture)
    except msgspec.ValidationError as error:
        raise ModelUnavailable(f"{folder / CONFIG_FILE} is not that of a DAC: {error}") from None
