"""Memory for models: what one needs, and what is there for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dia_server.errors import ModelUnavailable

GB = 1_000_000_000
# Bytes that this process may load a model into, as the pool says; see `grant`.
GRANTED = "MODEL_MEMORY"
FREE, ALL = "MemAvailable", "MemTotal"


class Need(NamedTuple):
    """Bytes that a worker takes for a model: of its weights, of each slot, and in reserve for the work itself."""

    model: str
    weights: int
    slot: int
    slots: int
    reserve: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.slot * self.slots + self.reserve

    def slots_in(self, size: int) -> int:
        """How many slots fit into so much."""
        return max(0, (size - self.weights - self.reserve) // self.slot)

    def check(self, size: int, where: str) -> None:
        """Whether it fits; `where` says what the bytes are.

        Raises:
            ModelUnavailable: it doesn't; the message says how many slots would.
        """
        if self.total <= size:
            return
        fitting = self.slots_in(size)
        advice = f"set `slots` under `models: {self.model}:` to {fitting}"
        if not fitting:
            advice = "free some, have fewer workers, or use another machine"
        raise ModelUnavailable(
            f"model '{self.model}' with {self.slots} slots needs {self.total / GB:.1f} GB ({self.weights / GB:.1f} for "
            f"weights, {self.slot / GB:.2f} for each slot, {self.reserve / GB:.1f} in reserve), and {size / GB:.1f} GB "
            f"{where}, in which {fitting} slots fit; {advice}"
        )


def measure(which: str = FREE) -> int:
    """Bytes of the machine's memory: those that may be taken now, or all; 0 where nobody tells."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    # Elsewhere nobody tells what is free.
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if "SC_PHYS_PAGES" in names else 0


def grant(size: int) -> None:
    """Let the models that this process loads take so much: its share, where others load theirs at the same time."""
    os.environ[GRANTED] = str(size)


def granted() -> int:
    """What `grant` has said, or else all that is free; 0 where nobody tells."""
    said = os.environ.get(GRANTED)
    return measure() if said is None else int(said)
