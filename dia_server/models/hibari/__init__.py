"""Hibari: a small English model inside its package, more than a hundred times faster than real time on one core."""

from __future__ import annotations

import msgspec

from dia_server.models.protocol import Manifest


class HibariOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model has no options of its own yet."""


MANIFEST = Manifest(
    name="hibari",
    description="A small English voice that speaks on any laptop; comes with the server.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.hibari.engine:load",
    options=HibariOptions,
    sample_rate=24_000,
    licence="Apache-2.0",
    source="hibari-tts (in the package)",
    packages=("hibari", "onnxruntime"),
    languages=("en",),
    speed=(0.5, 2.0),
)
