"""Dia's engine over a tiny network, with its parts at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dia_server.models.dia import guard, windows
from dia_server.models.dia.codec import Codec
from dia_server.models.dia.delay import Codes, frames_of
from dia_server.models.dia.engine import DiaEngine
from dia_server.models.dia.prompts import Prompts
from dia_server.models.dia.reading import tagged
from dia_server.tasks import Audio, Done, Ending, Failed, Speak
from dia_speech import reading, runtime_of, spoken

HOP = 512
RATE = 44_100
SLOTS = 4
TEXT = "Hello there, my dear friend."

Sound = NDArray[np.float32]


class Heard(NamedTuple):
    """What came of a task: its samples as they were sent, and how it ended."""

    pieces: list[Sound]
    ending: Ending

    @property
    def sound(self) -> Sound:
        return np.concatenate([*self.pieces, np.zeros(0, np.float32)])


class Stage:
    """An engine with its parts at hand."""

    def __init__(self, model: Path, codec: Codec, folder: Path, slots: int = SLOTS) -> None:
        self.runtime = runtime_of(model, slots)
        self.codec = codec
        self.prompts = Prompts(codec, folder, "tiny", 5.0)
        self.engine = DiaEngine(self.runtime, codec, self.prompts, "tiny")
        self.attempts: list[int] = []
        start = self.runtime.start

        def noted(slot: int, what: Any, attempt: int = 0) -> Any:
            self.attempts.append(attempt)
            return start(slot, what, attempt)

        self.runtime.start = noted  # type: ignore[method-assign]

    def hear(self, *tasks: Speak) -> list[Heard]:
        """All of them at once."""
        for number, task in enumerate(tasks):
            self.engine.admit(number, task)
        found: dict[int, Heard] = {}
        pieces: dict[int, list[Sound]] = {number: [] for number in range(len(tasks))}
        while len(found) < len(tasks):
            for number, event in self.engine.step():
                if isinstance(event, Audio):
                    assert event.first_sample == sum(map(len, pieces[number]))
                    pieces[number].append(np.frombuffer(event.pcm, "<f4"))
                else:
                    assert isinstance(event, Done | Failed)
                    found[number] = Heard(pieces[number], event)
        return [found[number] for number in range(len(tasks))]

    def codes(self, task: Speak, attempt: int, lead: str = "", prompt: Codes | None = None) -> Codes:
        """What the runtime says for it, asked directly."""
        text = tagged(f"{lead} [S1] {task.text}")
        most = round(guard.most_seconds(task.text) * RATE / HOP)
        rows = spoken(self.runtime, reading(text, prompt, most, task.seed), slot=1, attempt=attempt)
        return frames_of(rows[:-1], self.runtime.architecture)

    def sound(self, codes: Codes) -> Sound:
        """Decoded window by window, each by itself."""
        found = []
        for window in windows.ready(0, len(codes), whole=True):
            (samples,) = self.codec.decode([codes[window.left : window.right]])
            found.append(samples[(window.start - window.left) * HOP : (window.end - window.left) * HOP])
        return np.concatenate([*found, np.zeros(0, np.float32)])

    def findings(self, task: Speak, codes: Codes) -> tuple[str, ...]:
        seconds = len(codes) * HOP / RATE
        return ("truncated",) if seconds < guard.TRUNCATED * len(task.text) / guard.CHARACTERS_PER_SECOND else ()


def speak(seed: int, text: str = TEXT, *, judge: str = "start", **fields: Any) -> Speak:
    return Speak(model="dia", text=text, seed=seed, options={"judge": judge}, **fields)
