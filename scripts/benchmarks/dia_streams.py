"""What listeners of Dia get: whole streams, many at once, from their submission to their last sample."""

from __future__ import annotations

import hashlib
import itertools
import statistics
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import FLOAT_BYTES, Note, goal, table
from benchmarks.dia_model import FRAMES_PER_SECOND, codec, device, memory_of_slot, pair, where
from dia_server.models.dia import guard
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.engine import DiaEngine
from dia_server.models.dia.memory import GRAPHS, RESERVE
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.runtime import Reading, Run, Runtime
from dia_server.models.dia.setup import GPU_SLOTS
from dia_server.models.dia.weights import Weights
from dia_server.models.memory import GB
from dia_server.tasks import Audio, Done, Failed, Reference, Speak

TITLE = "Dia: streams"
MEASURED = (
    "Requests that come at once, through the whole engine at full size with random weights: texts of 75 to 180 "
    "characters, each spoken for as long as it would take (on the processor for 20 frames), every fourth behind a "
    "recording. Seconds from submission to the first samples, the sound of all over the time that it took, of how many "
    "a player would have run dry in the middle, and whether the first request has the samples that it has alone."
)

SENTENCES = "The morning train to the coast leaves at half past seven, and it is hardly ever late. " * 3
LENGTHS = (75, 180, 110, 140, 90)
FEW_FRAMES = 20
EVERY = 4
CLOCK = time.perf_counter


class Stopwatch:
    """The time that parts of the work take: on a GPU its own, in the stream that does them."""

    def __init__(self) -> None:
        self._spans: list[Callable[[], float]] = []

    @property
    def seconds(self) -> float:
        """Of all, once the work is done."""
        return sum(span() for span in self._spans)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        if device().type == "cpu":
            started = CLOCK()
            yield
            took = CLOCK() - started
            self._spans.append(lambda: took)
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._spans.append(lambda: begin.elapsed_time(end) / 1000)


class Measured(Runtime):
    """Whose requests are as long as is said, and whose preparation is timed."""

    preparing = Stopwatch()

    def fill(self, slot: int, reading: Reading) -> Iterator[None]:
        yield from _each(super().fill(slot, reading), self.preparing.running)

    def start(self, slot: int, reading: Reading, attempt: int = 0) -> Run:
        seconds = LENGTHS[reading.seed % len(LENGTHS)] / guard.CHARACTERS_PER_SECOND
        frames = round(seconds * FRAMES_PER_SECOND) if self.is_on_gpu else FEW_FRAMES
        return super().start(slot, reading._replace(most_frames=frames), attempt)


def _each(work: Iterator[None], within: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    while True:
        with within():
            try:
                next(work)
            except StopIteration:
                return
        yield


class Stream:
    """What came of a request, on a player's clock."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.sound = 0.0
        self.runs_dry = False
        self.samples = hashlib.sha256()

    def take(self, audio: Audio, now: float, sample_rate: int) -> None:
        if self.first is None:
            self.first = now
        self.runs_dry |= now - self.first > self.sound > 0
        self.sound += len(audio.pcm) / FLOAT_BYTES / sample_rate
        self.samples.update(audio.pcm)


def run(note: Note) -> str:
    """Measure."""
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        return "\n\n".join([f"On {where()}, bfloat16.", *_sections(note, Path(folder))])


def _sections(note: Note, folder: Path) -> Iterator[str]:
    on_gpu = device().type == "cuda"
    seconds = 10.0 if on_gpu else 1.0
    note("weights")
    weights, sound, recording = pair(torch.bfloat16).weights, codec(), _recording(folder, seconds)
    prompts = Prompts(sound, folder, "", longest_seconds=20)
    prompts.codes(recording)
    # The end's row: it never comes by itself.
    weights.head[weights.architecture.decoder_config.eos_token_id] = 0
    rows, remarks, dry = [], [], 0
    for slots, counts in {GPU_SLOTS: (1, 8, 32), 64: (64,)}.items() if on_gpu else [(8, (1, 8))]:
        if on_gpu and torch.cuda.mem_get_info()[0] < slots * memory_of_slot(weights) + GRAPHS + RESERVE:
            remarks.append(f"{slots} slots have no room on this GPU.")
            continue
        note(f"{slots} slots")
        runtime, remark = _runtime(weights, slots)
        remarks += remark
        engine = DiaEngine(runtime, sound, prompts, "")
        (alone,), _ = _heard(engine, sound, [_task(0, None)])
        for count in counts:
            note(f"{count} requests in {slots} slots")
            cells, streams = _measured(engine, runtime, sound, [_task(each, recording) for each in range(count)])
            is_equal = streams[0].samples.digest() == alone.samples.digest()
            rows.append([count, slots, *cells, "yes" if is_equal else "**no**"])
            dry += sum(stream.runs_dry for stream in streams) if count <= GPU_SLOTS else 0
        del engine, runtime
    head = [
        "requests",
        "slots",
        "first sound, median",
        "last",
        "x real time, all together",
        "DAC",
        "preparing",
        "dry",
        "equal",
    ]
    yield table(head, rows)
    kind = "the GPU's time, beside each other" if on_gpu else "the time"
    yield (
        f"The recording has {seconds:.0f} s; its codes are kept, as those of a voice are behind its first use. "
        f"DAC and preparing (of text and recordings) are shares of {kind}."
    )
    yield from remarks
    if on_gpu:
        yield goal(f"no player runs dry with up to {GPU_SLOTS} streams", f"{dry} did", met=not dry)


def _runtime(weights: Weights, slots: int) -> tuple[Measured, list[str]]:
    """With what its graphs take, on a GPU."""
    if device().type == "cpu":
        return Measured(weights, slots), []
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    runtime = Measured(weights, slots)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    taken = before - torch.cuda.mem_get_info()[0] - slots * memory_of_slot(weights)
    return runtime, [f"Graphs for {slots} slots take {taken / GB:.1f} GB; {GRAPHS / GB:.0f} are counted for them."]


def _measured(
    engine: DiaEngine, runtime: Measured, sound: Codec, tasks: Sequence[Speak]
) -> tuple[list[str], list[Stream]]:
    """The cells of a row, and what came of each task."""
    runtime.preparing, decoding, decode = Stopwatch(), Stopwatch(), sound._decode  # noqa: SLF001 - where DAC begins

    def timed(windows: list[Any]) -> torch.Tensor:
        with decoding.running():
            return decode(windows)

    sound._decode = timed  # type: ignore[method-assign]  # noqa: SLF001 - as above
    streams, took = _heard(engine, sound, tasks)
    sound._decode = decode  # type: ignore[method-assign]  # noqa: SLF001 - as above
    first = [stream.first for stream in streams if stream.first is not None]
    dry = sum(stream.runs_dry for stream in streams)
    pace = sum(stream.sound for stream in streams) / took
    shares = [f"{watch.seconds / took:.0%}" for watch in (decoding, runtime.preparing)]
    return [f"{statistics.median(first):.3g} s", f"{max(first):.3g} s", f"{pace:.3g}", *shares, f"{dry}"], streams


def _heard(engine: DiaEngine, sound: Codec, tasks: Sequence[Speak]) -> tuple[list[Stream], float]:
    """What came of tasks submitted at once, and the seconds until the last had ended."""
    started, streams, left = CLOCK(), [Stream() for _ in tasks], len(tasks)
    for number, task in enumerate(tasks):
        engine.admit(number, task)
    while left:
        for number, event in engine.step():
            match event:
                case Audio():
                    streams[number].take(event, CLOCK() - started, sound.sample_rate)
                case Failed(message=message):
                    raise RuntimeError(message)
                case Done():
                    left -= 1
    return streams, CLOCK() - started


def _task(number: int, recording: Reference | None) -> Speak:
    """The last of every four speaks with the recording's voice."""
    text = SENTENCES[: LENGTHS[number % len(LENGTHS)]].strip()
    references = {"S1": recording} if recording and number % EVERY == EVERY - 1 else {}
    return Speak(model="dia", text=text, speaker="S1", seed=number, references=references)


def _recording(folder: Path, seconds: float) -> Reference:
    samples = np.random.default_rng(0).normal(0, 3_000, round(seconds * 44_100)).astype("<i2")
    path = folder / "recording.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 44_100, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    transcript = " ".join(itertools.repeat("word", round(seconds * 2.5)))
    return Reference(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest(), transcript=transcript)
