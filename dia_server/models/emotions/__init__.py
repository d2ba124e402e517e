"""Emotions: a sequence classifier of the Hugging Face hub that tells which emotions a text has."""

from __future__ import annotations

import msgspec

from dia_server.models.emotions.setup import EmotionsSetup, check, repositories
from dia_server.models.protocol import Manifest


class EmotionsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None; the task says all."""


MANIFEST = Manifest(
    name="emotions",
    description="Tells which emotions a text has.",
    capabilities=frozenset({"classify"}),
    engine="dia_server.models.emotions.engine:load",
    options=EmotionsOptions,
    setup=EmotionsSetup,
    # It makes no samples.
    sample_rate=1,
    licence="MIT",
    source="SamLowe/roberta-base-go_emotions",
    packages=("torch", "transformers", "safetensors", "huggingface_hub"),
    extra="emotions",
    repositories=repositories,
    check=check,
    # 512 tokens through a large network on two busy cores.
    beat_seconds=60.0,
)

__all__ = ["MANIFEST", "EmotionsOptions", "EmotionsSetup"]
