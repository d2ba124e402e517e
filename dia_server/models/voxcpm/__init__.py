"""VoxCPM2 by OpenBMB: speech at 48 kHz in thirty languages, in the voice of a recording or one of its own."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from dia_server.models.hub import Commit, Source, locate
from dia_server.models.protocol import Manifest, Repository

FILES = ("config.json", "*.safetensors", "audiovae.pth", "tokenizer*", "special_tokens_map.json")


def _said(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


class VoxCpmOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `VoxCPM.generate` takes besides text and recordings, with its own defaults (OpenBMB/VoxCPM).

    Attributes:
        cfg_value: how much the text guides the diffusion; 1 is no guidance.
        inference_timesteps: steps of the diffusion.
        normalize: write numbers and the like as words, by WeText.
        denoise: clean the recordings; wants `denoiser` in the model's settings.
        retry_badcase: make speech anew that is much too long for its text.
        retry_badcase_max_times: how often it is made at most; 0 is 1, which `generate` wants.
        retry_badcase_ratio_threshold: patches of sound per token of text from which on it is too long.
    """

    cfg_value: Annotated[float, msgspec.Meta(ge=0.1, le=10)] = 2.0
    inference_timesteps: Annotated[int, msgspec.Meta(ge=1, le=100)] = 10
    normalize: bool = False
    denoise: bool = False
    retry_badcase: bool = True
    retry_badcase_max_times: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3
    retry_badcase_ratio_threshold: Annotated[float, msgspec.Meta(ge=1, le=100)] = 6.0


class VoxCpmSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights are, and how they are computed with."""

    weights: Annotated[
        Source, _said("the model: a repository of the Hugging Face hub, or a folder (`/…`, `~/…`, `./…`)")
    ] = "openbmb/VoxCPM2"
    revision: Annotated[
        Commit | None,
        _said("its commit there; `dia-server models pull voxcpm` records the one it fetches"),
    ] = None
    denoiser: Annotated[
        str | None,
        _said("the folder or ModelScope's id of a ZipEnhancer, for requests with `denoise`; null takes none of them"),
    ] = None
    use_torch_compile: Annotated[
        bool, _said("compile it on a GPU; starts take longer, and the bytes are others; part of the fingerprint")
    ] = False

    @property
    def repository(self) -> Repository:
        """Where the weights are."""
        return Repository(name="weights", source=self.weights, revision=self.revision, setting="revision", files=FILES)


def repositories(setup: Any) -> tuple[Repository, ...]:
    """The one."""
    return (setup.repository,)


def check(setup: Any) -> None:
    """Whether the weights are here.

    Raises:
        ModelUnavailable: they are not.
    """
    locate("voxcpm", setup.repository)


MANIFEST = Manifest(
    name="voxcpm",
    description="Speech in thirty languages, in the voice of a recording or its own; wants a GPU.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.voxcpm.engine:load",
    options=VoxCpmOptions,
    setup=VoxCpmSetup,
    sample_rate=48_000,
    licence="Apache-2.0",
    source="openbmb/VoxCPM2",
    packages=("voxcpm", "torch", "huggingface_hub"),
    extra="voxcpm",
    repositories=repositories,
    check=check,
    directable=frozenset({"audio_prompt"}),
    acts_with={
        "denoise": frozenset({"audio_prompt"}),
        "retry_badcase_max_times": frozenset({"retry_badcase"}),
        "retry_badcase_ratio_threshold": frozenset({"retry_badcase"}),
    },
    # A recording is read in one step, as is the sound of a whole segment.
    beat_seconds=120.0,
    devices=frozenset({"cpu", "cuda"}),
)

__all__ = ["MANIFEST", "VoxCpmOptions", "VoxCpmSetup"]
