"""Seeded noise of the right length: for tests and for measuring what the server itself costs.

Noise, not silence: swapped, doubled or missing samples show.
"""

from __future__ import annotations

import msgspec

from dia_server.models.protocol import Manifest


class NoiseOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the noise comes out; none of these changes a sample.

    Attributes:
        event_samples: samples per audio event; 0 sends each segment whole.
        ragged: draw each event's size anew, up to `event_samples`, so that no two runs cut alike.
        event_seconds: time to wait before each event, the last one included, for imitating a slow model.
    """

    event_samples: int = 0
    ragged: bool = False
    event_seconds: float = 0.0


MANIFEST = Manifest(
    name="noise",
    description="Seeded noise of the right length, for tests and measurements; it does not speak.",
    capabilities=frozenset({"speak"}),
    engine="dia_server.models.noise.engine:load",
    options=NoiseOptions,
    sample_rate=44_100,
    hop_length=441,
    for_tests=True,
    licence="Apache-2.0",
    source="part of dia-server",
)
