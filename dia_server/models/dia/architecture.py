"""The numbers that a checkpoint's config.json says of its network, checked against what this runtime can compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from dia_server.errors import ModelUnavailable

CONFIG_FILE = "config.json"


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


def read_architecture(folder: Path) -> Architecture:
    """What `config.json` in a checkpoint's folder says.

    Raises:
        ModelUnavailable: it is not there, of the layout before transformers had the model, or not of a Dia.
    """
    path = folder / CONFIG_FILE
    try:
        raw: Any = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise ModelUnavailable(f"{folder} has no {CONFIG_FILE}; fetch it with `dia-server models pull dia`") from None
    except msgspec.DecodeError as error:
        raise ModelUnavailable(f"{path} is damaged: {error}; delete it and pull again") from None
    if isinstance(raw, dict) and {"model", "data"} <= raw.keys():
        raise ModelUnavailable(
            f"{folder} has the first layout of Dia's files, which only its authors' own program reads; take "
            "nari-labs/Dia-1.6B-0626, the same model in the layout of transformers"
        )
    try:
        architecture = msgspec.convert(raw, Architecture)
    except msgspec.ValidationError as error:
        raise ModelUnavailable(f"{path} is not that of a Dia that this server can run: {error}") from None
    delays = architecture.delay_pattern
    if len(delays) != architecture.decoder_config.num_channels or delays[0] != 0 or list(delays) != sorted(delays):
        raise ModelUnavailable(f"{path}: delay_pattern {list(delays)} can't be streamed")
    return architecture
