"""The delay pattern: code `c` of a frame stands `delay[c]` rows further on than its first code.

Copet et al. 2023, "Simple and Controllable Music Generation", arXiv 2306.05284; ids and delays as in Dia's config.json.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dia_server.models.dia.architecture import Architecture

Codes = NDArray[np.int64]


def given_rows(codes: Codes, architecture: Architecture) -> Codes:
    """The rows that a request begins with: the first one, then a prompt's frames, delayed.

    Args:
        codes: (frames, channels) of the prompt; no frames where there is none.
        architecture: has the ids and the pattern.

    Returns:
        (1 + frames + largest delay, channels); the pad id is what is to be predicted.
    """
    decoder = architecture.decoder_config
    frames, channels = codes.shape
    rows = np.full((1 + frames + architecture.max_delay, channels), decoder.pad_token_id)
    for channel, delay in enumerate(architecture.delay_pattern):
        rows[: 1 + delay, channel] = decoder.bos_token_id
        rows[1 + delay : 1 + delay + frames, channel] = codes[:, channel]
    return rows


def frames_of(rows: Codes, architecture: Architecture) -> Codes:
    """The frames that are complete in rows of predicted codes: (rows - largest delay, channels), at least none."""
    count = max(0, len(rows) - architecture.max_delay)
    columns = [rows[delay : delay + count, channel] for channel, delay in enumerate(architecture.delay_pattern)]
    return np.stack(columns, axis=1)
