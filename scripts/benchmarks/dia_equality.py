"""Whether a request's bits depend on anything but itself, at full size, on this machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.common import ROOT, Note, table
from benchmarks.dia_model import CHANNELS, CODES, begin, codec, device, pair, reading, where
from dia_server.models.dia.layers import PAGE, behind, paged_attention
from dia_server.models.dia.noise import philox
from dia_server.models.dia.runtime import Reading, Runtime
from dia_server.models.dia.slots import TEXT_PAGE
from dia_server.models.dia.weights import Weights

TITLE = "Dia: equal bits"
MEASURED = (
    "Whether the codes of a seeded request are the same alone, in another slot, among random tenants, in another "
    "runtime and in another process; and whether attention, DAC and noise keep what that rests on. Full size, random "
    "weights."
)

SEED = 7
IN_ANOTHER_PROCESS = """\
import torch
from benchmarks.dia_equality import alone
from benchmarks.dia_model import pair
print(alone(pair(torch.bfloat16).weights, {slots}, {frames}))
"""


def run(note: Note) -> str:
    """Compare."""
    with torch.inference_mode():
        rows = [[what, "yes" if equal else "**no**"] for what, equal in _checks(note)]
    return "\n\n".join([f"On {where()}, bfloat16.", table(["equal", ""], rows)])


def _checks(note: Note) -> Iterator[tuple[str, bool]]:
    on_gpu = device().type == "cuda"
    frames = 200 if on_gpu else 8
    weights = pair(torch.bfloat16).weights
    for slots in (8, 32, 64, 128) if on_gpu else (8,):
        note(f"{slots} slots")
        wanted = alone(weights, slots, frames)
        yield (
            f"{slots} slots: last slot as the first",
            _codes(weights, slots, frames, slots - 1, tenants=False) == wanted,
        )
        yield f"{slots} slots: among tenants", _codes(weights, slots, frames, slots // 2, tenants=True) == wanted
        if on_gpu:
            plain = _codes(weights, slots, frames, 0, tenants=False, with_graphs=False)
            yield f"{slots} slots: without graphs", plain == wanted
    note("another process")
    slots = 8
    script = IN_ANOTHER_PROCESS.format(slots=slots, frames=frames)
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT / "scripts"
    )
    yield f"{slots} slots: in another process", there.stdout.strip() == alone(weights, slots, frames)
    note("parts")
    for slots in (1, 8, 32):
        yield f"{slots} slots: attention to codes over 1 to 12 pages", _attention(2 * slots, 4, 4, PAGE)
        yield f"{slots} slots: attention to text over 1 to 12 pages", _attention(slots, 16, 1, TEXT_PAGE)
    yield "DAC's windows alone and together", _codec()
    yield "noise here and on the processor", _noise()


def alone(weights: Weights, slots: int, frames: int) -> str:
    """A hash of the codes of the request in the first slot, nobody beside it."""
    return _codes(weights, slots, frames, 0, tenants=False)


def _codes(weights: Weights, slots: int, frames: int, slot: int, *, tenants: bool, with_graphs: bool = True) -> str:
    runtime = Runtime(weights, slots, with_graphs=with_graphs)
    wanted, rows = reading(SEED, frames=frames), []
    dice = np.random.default_rng(1)
    longest = 500 if device().type == "cuda" else 50
    # Some are there before, others come and go meanwhile.
    others = [other for other in range(slots) if other != slot] if tenants else []
    for other in others[::2]:
        begin(runtime, other, _stranger(dice, int(dice.integers(1, 2 * frames)), longest))
    for _ in range(3 if tenants else 0):
        runtime.step()
    begin(runtime, slot, wanted)
    joining = iter(others[1::2])
    while True:
        outcome = runtime.step()
        if (other := next(joining, None)) is not None:
            begin(runtime, other, _stranger(dice, frames, int(dice.integers(longest))))
        if outcome is None or all(run.reading is not wanted for run in outcome.runs):
            continue
        rows.append(outcome.codes[slot])
        if outcome.since[slot] == weights.architecture.max_delay:
            return hashlib.sha256(np.array(rows).tobytes()).hexdigest()


def _stranger(dice: np.random.Generator, frames: int, prompt: int) -> Reading:
    """Somebody else, whose text reaches over any number of pages."""
    text = b"\x01" + b"a" * int(dice.integers(1, 1000))
    return reading(int(dice.integers(1000)), frames, prompt, text)


def _attention(rows: int, heads: int, group: int, page: int) -> bool:
    """The same bits over one page as over twelve."""
    generator = torch.Generator(device=device()).manual_seed(0)
    queries, keys, values = (
        torch.randn(shape, device=device(), dtype=torch.bfloat16, generator=generator)
        for shape in ((rows, heads, group, 128), (12, rows, heads, page, 128), (12, rows, heads, page, 128))
    )
    lengths = torch.arange(rows, device=device()) % page + 1
    one, *more = (paged_attention(queries, keys[:n], values[:n], behind(lengths, n, page)) for n in range(1, 13))
    return all(one.equal(each) for each in more)


def _codec() -> bool:
    sound, windows = codec(), list(np.random.default_rng(0).integers(0, CODES, (8, 24, CHANNELS)))
    return all(map(np.array_equal, sound.decode(windows), (sound.decode([window])[0] for window in windows)))


def _noise() -> bool:
    counter = tuple(torch.arange(4096) * number for number in (1, 3, 5, 7))
    key = (torch.tensor(SEED), torch.tensor(SEED + 1))

    def on(where: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        words = philox(tuple(map(where, counter)), tuple(map(where, key)))  # type: ignore[arg-type]
        return torch.stack(words).cpu()

    return bool((on(lambda tensor: tensor.to(device())) == on(lambda tensor: tensor.cpu())).all())
