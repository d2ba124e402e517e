"""The files of network and codec, checked by what can be told without reading gigabytes or importing PyTorch."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import msgspec

from dia_server.errors import ModelUnavailable
from dia_server.models.dia.architecture import CONFIG_FILE, Architecture, read_architecture, read_dac
from dia_server.models.dia.setup import NAME, SAMPLE_RATE, DiaSetup
from dia_server.models.hub import advising, locate

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LENGTH = struct.Struct("<Q")


class Entry(msgspec.Struct):
    """A tensor, as a file's header has it."""

    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def whole(setup: DiaSetup) -> tuple[Path, Path]:
    """The folders of network and codec, which are whole as far as can be told so.

    Raises:
        ModelUnavailable: a file is missing, damaged, or of something else; the message says which, and what to do.
    """
    model, codec = locate(NAME, setup.model), locate(NAME, setup.dac)
    with advising(NAME, setup.model):
        architecture = check_model(model)
    with advising(NAME, setup.dac):
        _check_codec(codec, architecture)
    return model, codec


def check_model(folder: Path) -> Architecture:
    """Whether a folder has all tensors of its network.

    Raises:
        ModelUnavailable: it has not.
    """
    architecture = read_architecture(folder)
    there = {name: entry.shape for path in files_of(folder) for name, entry in header(path).items()}
    _check_shapes(folder, there, architecture.shapes())
    return architecture


def _check_shapes(folder: Path, there: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]) -> None:
    for name, shape in wanted.items():
        if name not in there:
            raise lacking(folder, name)
        check_shape(name, there[name], shape)


def lacking(folder: Path, name: str) -> ModelUnavailable:
    """What to say of a folder without a tensor of its network."""
    return ModelUnavailable(f"{folder} lacks the tensor {name}; is it in the layout of transformers?")


def check_shape(name: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Whether a tensor is as its network wants it.

    Raises:
        ModelUnavailable: it is not.
    """
    if found != shape:
        raise ModelUnavailable(f"{name} has the shape {found}, and {CONFIG_FILE} makes it {shape}")


def _check_codec(folder: Path, architecture: Architecture) -> None:
    codec = read_dac(folder)
    entries = header(_there(folder / SINGLE_FILE))
    channels = architecture.decoder_config.num_channels
    if (codec.n_codebooks, codec.sampling_rate) != (channels, SAMPLE_RATE):
        raise ModelUnavailable(
            f"the codec in {folder} has {codec.n_codebooks} codebooks at {codec.sampling_rate} Hz, and the model "
            f"speaks {channels} at {SAMPLE_RATE} Hz, as descript/dac_44khz does"
        )
    _check_shapes(folder, {name: entry.shape for name, entry in entries.items()}, codec.shapes())


def files_of(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors.

    Raises:
        ModelUnavailable: one is missing, or the index that names them damaged.
    """
    index = folder / INDEX_FILE
    if not index.exists():
        return [_there(folder / SINGLE_FILE)]
    try:
        names = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()
    except (OSError, msgspec.DecodeError) as error:
        raise ModelUnavailable(f"{index} is damaged: {error}") from None
    return [_there(folder / name) for name in sorted(set(names))]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise ModelUnavailable(f"{path} is not there")
    return path


def parameters(path: Path) -> int:
    """How many numbers a file of tensors holds.

    Raises:
        ModelUnavailable: it is damaged.
    """
    return sum(math.prod(entry.shape) for entry in header(path).values())


def header(path: Path) -> dict[str, Entry]:
    """The tensors of a file: eight bytes of length, that much JSON, then the numbers (safetensors' documentation).

    Raises:
        ModelUnavailable: it is cut off, too long, or no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            raw: dict[str, Any] = msgspec.json.decode(file.read(min(length, size)), type=dict[str, Any])
        raw.pop("__metadata__", None)
        entries = msgspec.convert(raw, dict[str, Entry])
    except (OSError, ValueError, struct.error) as error:
        raise ModelUnavailable(f"{path} is damaged or only half there: {error}") from None
    wanted = _LENGTH.size + length + max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if size != wanted:
        raise ModelUnavailable(f"{path} is damaged or only half there: it has {size:,} bytes of {wanted:,}")
    return entries
