"""The model itself, ready to speak in a fixed number of slots: texts go in, rows of codes come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dia_server.models.dia.decoder import Decoder
from dia_server.models.dia.delay import Codes, given_rows
from dia_server.models.dia.graph import Graphs, Step
from dia_server.models.dia.layers import PAGE
from dia_server.models.dia.prefill import Prefill
from dia_server.models.dia.sampling import Controls, Draw, draw_by_noise
from dia_server.models.dia.slots import TEXT_PAGE, Slots, pages_of
from dia_server.models.dia.transfer import Arriving, to_device
from dia_server.models.dia.weights import Weights


class Reading(NamedTuple):
    """A text to be spoken.

    Attributes:
        text: as `text.encode` gives it.
        prompt: codes to go on from, (frames, channels).
        most_frames: the end is forced behind so many.
    """

    text: bytes
    prompt: Codes
    most_frames: int
    seed: int
    guidance: float = 3.0
    temperature: float = 1.2
    top_p: float = 0.95
    top_k: int = 45

    def controls(self, attempt: int) -> Iterator[tuple[str, float]]:
        """How to sample it."""
        for name in Controls._fields:
            yield name, attempt if name == "attempt" else getattr(self, name)


class Run:
    """One try of a reading in its slot; `rows` are known, or will be when all launched steps have ended."""

    def __init__(self, slot: int, reading: Reading) -> None:
        self.slot = slot
        self.reading = reading
        self.rows = len(reading.prompt) + 1


class Outcome(NamedTuple):
    """What a step came to.

    Attributes:
        codes: the new row of every slot, (slots, channels).
        since: (slots,), rows since the end began; -1 before.
        broken: (slots,), logits were not finite, and the run has stopped.
        runs: those that were moved on.
    """

    codes: Codes
    since: NDArray[np.int64]
    broken: NDArray[np.bool_]
    runs: tuple[Run, ...]


class Runtime:
    """Slots and what moves them on.

    Attributes:
        most_frames: that a request may have, those of its prompt included.
        is_on_gpu: steps go on by themselves, and outcomes come one step late.
    """

    def __init__(
        self,
        weights: Weights,
        count: int,
        *,
        draw: Draw = draw_by_noise,
        is_compiled: bool = False,
        with_graphs: bool = True,
    ) -> None:
        """Graphs are for GPUs only."""
        self.architecture = weights.architecture
        self.slots = Slots(weights.architecture, count, weights.device, weights.dtype)
        self.most_frames = self.slots.positions - weights.architecture.max_delay - 2
        self._prefill = Prefill(weights, self.slots)
        decoder = Decoder(weights, self._prefill.unconditional, self.slots, draw, is_compiled=is_compiled)
        self.is_on_gpu = weights.device.type == "cuda"
        self._step: Step = decoder.step
        if self.is_on_gpu and with_graphs:
            self._step = Graphs(decoder.step, range(1, self.slots.pages + 1), self.slots.text_sizes)
        # A GPU is given the next step before anybody looks at the codes of this one.
        self._depth = 1 if self.is_on_gpu else 0
        self._launched: deque[tuple[Arriving, tuple[Run, ...]]] = deque()
        self._runs: dict[int, Run] = {}
        # Slots in whose caches numbers that are not finite may be left.
        self._unclean: set[int] = set()

    def fill(self, slot: int, reading: Reading) -> Iterator[None]:
        """Compute what a reading needs before its first step, into a free slot; yields between slices of the work."""
        if slot in self._unclean or any(run.slot == slot for _, runs in self._launched for run in runs):
            self.slots.clear(slot)
        # Unless it is filled to the end.
        self._unclean.add(slot)
        first = len(reading.prompt) + 1
        # Until this one begins, the steps of others write there what its first step will write anew.
        self.slots.position[slot] = first - 1
        rows = torch.from_numpy(given_rows(reading.prompt, self.architecture)[: first - 1])
        yield from self._prefill.fill(slot, reading.text, to_device(rows, self.slots.codes.device))

    def start(self, slot: int, reading: Reading, attempt: int = 0) -> Run:
        """Let a filled slot speak from the beginning, once more if it has spoken."""
        slots, run = self.slots, Run(slot, reading)
        given = torch.from_numpy(given_rows(reading.prompt, self.architecture))
        slots.codes[slot] = slots.free_id
        slots.codes[slot, : len(given)] = to_device(given, slots.codes.device)
        slots.position[slot], slots.first[slot] = run.rows - 1, run.rows
        slots.limit[slot] = run.rows + reading.most_frames
        slots.since[slot] = -1
        for name, value in reading.controls(attempt):
            getattr(slots.controls, name)[slot] = value
        slots.active[slot] = True
        self._unclean.discard(slot)
        self._runs[slot] = run
        return run

    def stop(self, run: Run) -> None:
        """Give its slot back; a run that has ended or stopped before is none."""
        if self._runs.get(run.slot) is run:
            del self._runs[run.slot]
            self.slots.active[run.slot] = False

    def step(self) -> Outcome | None:
        """Move all runs on by a row; on a GPU the outcome is that of the step before."""
        runs = tuple(self._runs.values())
        if runs:
            pages = max(pages_of(run.rows, PAGE) for run in runs)
            text_pages = max(pages_of(len(run.reading.text), TEXT_PAGE) for run in runs)
            self._step(pages, next(size for size in self.slots.text_sizes if size >= text_pages))
            self._launched.append((self._left_by_step(), runs))
            for run in runs:
                run.rows = min(run.rows + 1, self.slots.positions)
        if len(self._launched) <= (self._depth if runs else 0):
            return None
        left, runs = self._launched.popleft()
        # Rows are kept for as long as a segment lasts, and pinned memory goes back at once.
        codes, since, broken = (tensor.numpy().copy() for tensor in left.wait())
        self._unclean.update(np.flatnonzero(broken).tolist())
        return Outcome(codes, since, broken, runs)

    def _left_by_step(self) -> Arriving:
        rows = torch.arange(self.slots.count, device=self.slots.codes.device)
        return Arriving([self.slots.codes[rows, self.slots.position], self.slots.since, self.slots.broken])
