"""The model's own settings, those under `models: dia:` in config.yaml, and what they say before it is loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from dia_server.models.hub import Commit, Source
from dia_server.models.memory import Need
from dia_server.models.protocol import DeviceName, Repository

NAME = "dia"
# Of its sound, in Hz.
SAMPLE_RATE = 44_100
FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
GPU_SLOTS, CPU_SLOTS = 32, 4


def _said(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class DiaSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights are, and how they are computed with."""

    weights: Annotated[
        Source, _said("the model: a repository of the Hugging Face hub, or a folder (`/…`, `~/…`, `./…`)")
    ] = "nari-labs/Dia-1.6B-0626"
    revision: Annotated[
        Commit | None, _said("the commit of that repository; `dia-server models pull dia` records the one it fetches")
    ] = None
    codec: Annotated[Source, _said("the codec at 44.1 kHz, likewise")] = "descript/dac_44khz"
    codec_revision: Annotated[Commit | None, _said("its commit, likewise")] = None
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16", "float32"],
        _said("of weights and caches; auto is bfloat16 on a GPU and float32 on the processor; part of the fingerprint"),
    ] = "auto"
    slots: Annotated[
        Annotated[int, msgspec.Meta(ge=1)] | None,
        _said(
            "segments spoken at once by each worker; one number for the whole pool, part of the fingerprint; null is "
            f"{GPU_SLOTS} on a GPU and {CPU_SLOTS} on the processor"
        ),
    ] = None
    use_torch_compile: Annotated[
        bool, _said("compile the step; starts take longer, and the bytes are others; part of the fingerprint")
    ] = False

    def dtype_on(self, device: DeviceName) -> Literal["bfloat16", "float16", "float32"]:
        """What `dtype` comes to on a device."""
        if self.dtype != "auto":
            return self.dtype
        return "bfloat16" if device == "cuda" else "float32"

    def slots_on(self, device: DeviceName) -> int:
        """What `slots` comes to on a device."""
        return self.slots or (GPU_SLOTS if device == "cuda" else CPU_SLOTS)

    @property
    def model(self) -> Repository:
        """Where the network is."""
        return Repository(name="weights", source=self.weights, revision=self.revision, setting="revision", files=FILES)

    @property
    def dac(self) -> Repository:
        """Where the codec is."""
        return Repository(
            name="codec", source=self.codec, revision=self.codec_revision, setting="codec_revision", files=FILES
        )


def repositories(setup: Any) -> tuple[Repository, ...]:
    """Both."""
    return setup.model, setup.dac


# What it takes to look into the files is needed only here.


def check_files(setup: Any) -> None:
    """Whether network and codec are here and whole.

    Raises:
        ModelUnavailable: they are not.
    """
    from dia_server.models.dia.files import whole

    whole(setup)


def memory_of(setup: Any, device: DeviceName) -> Need:
    """What a worker takes on a device.

    Raises:
        ModelUnavailable: the files that would tell aren't here, or damaged.
    """
    from dia_server.models.dia.files import whole
    from dia_server.models.dia.memory import need_of

    return need_of(setup, *whole(setup), device)
