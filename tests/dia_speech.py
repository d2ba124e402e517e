"""Ways to let a tiny Dia speak, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dia_server.models.dia.delay import Codes
from dia_server.models.dia.prefill import finish
from dia_server.models.dia.runtime import Reading, Run, Runtime
from dia_server.models.dia.text import encode
from dia_server.models.dia.weights import load_weights

CHANNELS = 9
LAST_DELAY = 15

# Networks so small gain nothing by a second thread, and lose much to it where others use the processor.
torch.set_num_threads(1)


def runtime_of(folder: Path, slots: int, dtype: torch.dtype = torch.float32, **options: Any) -> Runtime:
    return Runtime(load_weights(folder, torch.device("cpu"), dtype), slots, **options)


def reading(text: str, prompt: Codes | None = None, frames: int = 44, seed: int = 0, **controls: float) -> Reading:
    prompt = np.zeros((0, CHANNELS), np.int64) if prompt is None else prompt
    return Reading(encode(text, 1024), prompt, frames, seed, **controls)  # type: ignore[arg-type]


def random_codes(frames: int, seed: int = 0) -> Codes:
    return np.random.default_rng(seed).integers(0, 1024, (frames, CHANNELS))


def begin(runtime: Runtime, slot: int, reading: Reading, attempt: int = 0) -> Run:
    finish(runtime.fill(slot, reading))  # type: ignore[arg-type]
    return runtime.start(slot, reading, attempt)


def rows_until_end(runtime: Runtime, runs: Iterable[Run]) -> dict[int, Codes]:
    """All that is spoken from here to the ends of `runs`, by slot."""
    open_runs = {run.slot: run for run in runs}
    rows: dict[int, list[Codes]] = {slot: [] for slot in open_runs}
    while open_runs:
        outcome = runtime.step()
        assert outcome is not None
        for slot, run in list(open_runs.items()):
            rows[slot].append(outcome.codes[slot])
            if outcome.since[slot] == LAST_DELAY:
                runtime.stop(run)
                del open_runs[slot]
    return {slot: np.array(found) for slot, found in rows.items()}


def spoken(runtime: Runtime, reading: Reading, slot: int = 0, attempt: int = 0) -> Codes:
    """The rows of one reading, to the end of the last channel."""
    return rows_until_end(runtime, [begin(runtime, slot, reading, attempt)])[slot]


def spoken_together(runtime: Runtime, readings: Sequence[Reading]) -> Mapping[int, Codes]:
    return rows_until_end(runtime, [begin(runtime, slot, each) for slot, each in enumerate(readings)])
