"""Reads audio files that nobody vouches for: whatever FFmpeg decodes that people record in, within bounds.

It is a model so that it runs in a worker of its own, whose death harms no speech.
"""

from __future__ import annotations

import msgspec

from dia_server.models.protocol import Manifest

# A step decodes one second of sound at most; a file that takes longer over it is an attack.
STEP_SECONDS = 10.0


class DecoderOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """There are none."""


MANIFEST = Manifest(
    name="decoder",
    description="Decodes uploaded audio files.",
    capabilities=frozenset({"decode"}),
    engine="dia_server.models.decoder.engine:load",
    options=DecoderOptions,
    sample_rate=44_100,
    beat_seconds=STEP_SECONDS,
    licence="LGPL-2.1-or-later",
    source="FFmpeg's libraries, as PyAV carries them",
)
