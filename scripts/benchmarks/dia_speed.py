"""How fast Dia's steps are, next to transformers and to what memory allows."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.common import Note, goal, table
from benchmarks.dia_model import (
    FRAMES_PER_SECOND,
    TEXT,
    Pair,
    begin,
    bytes_of,
    device,
    memory_of_slot,
    pair,
    reading,
    synchronised,
    where,
)
from dia_server.models.dia.delay import given_rows
from dia_server.models.dia.runtime import Runtime

TITLE = "Dia: steps"
MEASURED = (
    "Milliseconds of a step of Dia-1.6B at full size with random weights, guidance on, by slots; beside it "
    "transformers' `generate` with the same weights, and the floor: the bytes that a step has to read, over what this "
    "memory is read with."
)

# On a GPU: against transformers with one stream, and real time with 32; on the processor, eight requests at once
# against one after another.
TIMES_AS_FAST, PACE_OF_32, TIMES_TOGETHER = 5, 150, 3
WARM_UP = 3
BUFFER_BYTES = 1 << 30
READS = 5


class Steps:
    """Times between a generation's steps, for transformers' `streamer`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _value: object) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass

    @property
    def milliseconds(self) -> float:
        """The median of a step, without those that warm up."""
        differences = [later - sooner for sooner, later in zip(self.times, self.times[1:], strict=False)]
        return 1000 * statistics.median(differences[WARM_UP:])


def run(note: Note) -> str:
    """Measure."""
    with torch.inference_mode():
        return "\n\n".join([f"On {where()}.", *_sections(note)])


def _sections(note: Note) -> Iterator[str]:
    on_gpu = device().type == "cuda"
    slots, steps, prompt = ((1, 8, 32, 64), 200, 568) if on_gpu else ((1, 8), 12, 64)
    for dtype in (torch.bfloat16,) if on_gpu else (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        note(f"{name}: weights")
        both, bandwidth = pair(dtype), _bandwidth()
        ours = {}
        for count in slots:
            note(f"{name}: {count} slots")
            ours[count] = _ours(both, count, count, steps, prompt)
        note(f"{name}: one of {slots[-1]} slots")
        alone = _ours(both, slots[-1], 1, steps, prompt)
        note(f"{name}: transformers")
        theirs = min(_theirs(both, 1, steps, cache) for cache in ("dynamic", "static"))
        together = min(_theirs(both, 8, steps, cache) for cache in ("dynamic", "static"))
        caches = memory_of_slot(both.weights) >> 20
        yield f"**{name}**, memory read with {bandwidth / 1e9:.0f} GB/s, a slot's caches {caches} MB:"
        rows = []
        for count, step in ours.items():
            floor = 1000 * bytes_of(both.weights, count, prompt + steps // 2, len(TEXT)) / bandwidth
            rows.append(
                [f"ours, {count} slots", f"{step:.1f}", _pace(step, count), f"{floor:.1f}", f"{floor / step:.0%}"]
            )
        rows.append([f"ours, 1 of {slots[-1]} slots taken", f"{alone:.1f}", _pace(alone, 1), "", ""])
        rows.append(["transformers, one request", f"{theirs:.1f}", _pace(theirs, 1), "", ""])
        rows.append(["transformers, 8 requests in step", f"{together:.1f}", _pace(together, 8), "", ""])
        yield table(["", "ms a step", "x real time, all together", "floor, ms", "of the floor"], rows)
        yield from _goals(ours, theirs, on_gpu=on_gpu)
        del both
        gc.collect()


def _goals(ours: dict[int, float], theirs: float, *, on_gpu: bool) -> Iterator[str]:
    ratio = theirs / ours[1]
    if on_gpu:
        yield goal(f"{TIMES_AS_FAST} times transformers at one stream", f"{ratio:.2f}", met=ratio >= TIMES_AS_FAST)
        pace = 32 * 1000 / ours[32] / FRAMES_PER_SECOND
        yield goal(f"{PACE_OF_32} x real time together at 32", f"{pace:.0f}", met=pace >= PACE_OF_32)
        return
    yield goal("no slower than transformers with one slot", f"{ratio:.2f} times as fast", met=ratio >= 1)
    ratio = 8 * theirs / ours[8]
    wanted = f"8 requests in 8 slots {TIMES_TOGETHER} times as fast as one after another"
    yield goal(wanted, f"{ratio:.2f}", met=ratio >= TIMES_TOGETHER)


def _pace(milliseconds: float, count: int) -> str:
    return f"{count * 1000 / milliseconds / FRAMES_PER_SECOND:.3g}"


def _ours(both: Pair, slots: int, taken: int, steps: int, prompt: int) -> float:
    """Milliseconds of a step, as the step loop makes them."""
    runtime = Runtime(both.weights, slots)
    for slot in range(taken):
        begin(runtime, slot, reading(slot, frames=steps + WARM_UP + 100, prompt=prompt))
    times = []
    for _ in range(steps + WARM_UP):
        started = time.perf_counter()
        runtime.step()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[WARM_UP:])


def _theirs(both: Pair, requests: int, steps: int, cache: str) -> float:
    """Milliseconds of a step of `generate`."""
    streamer = Steps()
    both.reference.generate(
        **_inputs(both, requests),
        max_new_tokens=steps + WARM_UP,
        do_sample=True,
        temperature=1.2,
        top_p=0.95,
        top_k=45,
        guidance_scale=3.0,
        cache_implementation=None if cache == "dynamic" else cache,
        streamer=streamer,
    )
    return streamer.milliseconds


def _inputs(both: Pair, requests: int) -> dict[str, Any]:
    architecture = both.weights.architecture
    ids = torch.tensor([list(TEXT)] * requests, device=device())
    rows = torch.from_numpy(given_rows(reading(0, 1).prompt, architecture)).to(device())
    rows = rows[None].expand(requests, *rows.shape).contiguous()
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "decoder_input_ids": rows,
        "decoder_attention_mask": torch.ones(rows.shape[:2], dtype=torch.long, device=device()),
    }


def _bandwidth() -> float:
    """Bytes a second that a large tensor is read with."""
    buffer = torch.ones(BUFFER_BYTES // 4, device=device())
    times = []
    for _ in range(READS):
        started = time.perf_counter()
        synchronised(buffer.sum)
        times.append(time.perf_counter() - started)
    return BUFFER_BYTES / min(times)
