"""The engine: one program, which is told of one task after the other, and read from its files."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from dia_server.errors import ModelUnavailable
from dia_server.files import PART_SUFFIX
from dia_server.models.fingerprint import fingerprint
from dia_server.models.program import ProgramSetup, options_of
from dia_server.models.program.messages import VERSION, Order, Said
from dia_server.models.program.process import Launch, Process
from dia_server.models.program.sound import BadSound, read_sound
from dia_server.models.protocol import Engine, EngineLost, Sequential
from dia_server.models.recording import BadRecording, read_reference
from dia_server.tasks import Audio, Done, Event, Failed, Reference, Speak

MAX_ERROR_CHARACTERS = 500


def load(threads: int, setup: ProgramSetup) -> Engine:
    """Start a program of config.yaml, and wait until it is ready."""
    launch = Launch(command=setup.command, folder=Path(setup.folder).expanduser(), environment=setup.environment)
    return ProgramEngine(
        launch, setup, options_of(setup), threads, sample_rate=setup.sample_rate, task_seconds=setup.task_seconds
    )


class ProgramEngine(Sequential):
    """One task at a time; a program that dies, hangs or talks nonsense takes the worker down with it.

    So the pool's own rules hold for it: it starts the worker anew, and this the program, runs the task again, and
    gives up one that kills workers. A step lasts until the program's next line, so that the worker beats while there
    is progress, and only then.

    A task that is cancelled is abandoned: the program ends it unheard, which takes less time than loading anew, and the
    next one waits for that.
    """

    def __init__(
        self,
        launch: Launch,
        setup: msgspec.Struct,
        options: type[msgspec.Struct],
        threads: int,
        *,
        sample_rate: int,
        task_seconds: float,
    ) -> None:
        """Start the program; `setup` is what its sound depends on besides what it says itself.

        Raises:
            ModelUnavailable: it doesn't come up; the message says why.
        """
        self._options = options
        self._sample_rate = sample_rate
        self._task_seconds = task_seconds
        self._last_id = 0
        # Of orders without an answer yet: where each one's file will be.
        self._folders: dict[int, tempfile.TemporaryDirectory[str]] = {}
        self._since = 0.0
        try:
            self._process = Process(launch)
        except OSError as error:
            raise ModelUnavailable(f"its program can't be started in {launch.folder}: {error.strerror}") from None
        try:
            ready = self._wait_until_ready()
        except EngineLost as lost:
            self._process.end()
            raise ModelUnavailable(str(lost)) from None
        super().__init__(self._run, _fingerprint(ready, setup, threads))

    def close(self) -> None:
        super().close()
        self._process.end()
        for folder in self._folders.values():
            folder.cleanup()

    def _wait_until_ready(self) -> Said:
        while (said := self._process.hear()).is_sign_of_life:
            pass
        if not said.ready:
            raise EngineLost("the program said something else before it was ready")
        if said.protocol != VERSION:
            raise EngineLost(f"the program speaks version {said.protocol} of the protocol, and this server {VERSION}")
        if said.sample_rate != self._sample_rate:
            raise EngineLost(
                f"the program makes {said.sample_rate} Hz, and its `sample_rate` is set to {self._sample_rate}"
            )
        return said

    def _run(self, task: Speak) -> Iterator[Event | None]:
        self._last_id += 1
        self._catch_up()
        try:
            order = self._order(task)
        except BadRecording as error:
            yield Failed(str(error), is_input_wrong=True)
            return
        self._process.tell(order)
        while (said := self._hear()).is_sign_of_life or said.id != order.id:
            yield None
        with self._folders.pop(order.id):
            events = self._outcome(order, said)
        yield from events

    def _order(self, task: Speak) -> Order:
        options = msgspec.to_builtins(msgspec.convert(task.options, self._options))
        reference, manner = task.references.get(task.speaker), task.delivery.emotion_reference
        for recording in (reference, manner):
            if recording is not None:
                read_reference(recording)
        # The cache may have been deleted meanwhile.
        Path(tempfile.gettempdir()).mkdir(parents=True, exist_ok=True)
        # The name of what is not finished: the next start sweeps what a killed worker leaves.
        folder = self._folders[self._last_id] = tempfile.TemporaryDirectory(prefix=".program-", suffix=PART_SUFFIX)
        return Order(
            id=self._last_id,
            text=task.text,
            seed=task.seed,
            reference=_path(reference),
            transcript=None if reference is None else reference.transcript,
            emotion=task.delivery.emotion,
            emotion_reference=_path(manner),
            emotion_strength=task.delivery.emotion_strength,
            options=options,
            output=os.fspath(_output(folder)),
        )

    def _catch_up(self) -> None:
        """Hear what was said while there was no task, and begin to count the time if no order is left.

        Raises:
            EngineLost: it makes no sense.
        """
        while self._process.has_said:
            self._note(self._process.hear())
        if not self._folders:
            self._since = time.monotonic()

    def _hear(self) -> Said:
        """The next line; an abandoned order's end is taken note of.

        Raises:
            EngineLost: it makes no sense, or the order has lasted too long.
        """
        said = self._process.hear()
        if time.monotonic() - self._since > self._task_seconds:
            raise EngineLost(f"the program has worked on one task for more than {self._task_seconds:g} s")
        self._note(said)
        return said

    def _note(self, said: Said) -> None:
        if said.is_sign_of_life:
            return
        if said.id not in self._folders:
            raise EngineLost(f"the program answered an order that it never had: {said.id}")
        self._since = time.monotonic()
        if said.id != self._last_id:
            self._folders.pop(said.id).cleanup()

    def _outcome(self, order: Order, said: Said) -> list[Event]:
        if not said.ok:
            # It reaches terminals too.
            words = "".join(letter if letter.isprintable() else " " for letter in said.error or "")
            reason = " ".join(words.split()) or "it gave no reason"
            return [Failed(f"The model failed: {reason[:MAX_ERROR_CHARACTERS]}", is_input_wrong=said.is_input_wrong)]
        try:
            samples = read_sound(Path(order.output), self._sample_rate)
        except BadSound as error:
            raise EngineLost(f"the program said that it was done, but {error}") from None
        pcm = np.ascontiguousarray(samples, dtype="<f4").tobytes()
        return [Audio(first_sample=0, pcm=pcm), Done(samples=len(samples))]


def _fingerprint(ready: Said, setup: msgspec.Struct, threads: int) -> str:
    return fingerprint(
        ready.name or "program",
        packages=("numpy", "scipy"),
        revision=ready.version,
        dtype="",
        threads=threads,
        slots=ProgramEngine.slots,
        besides=(msgspec.json.encode(setup, order="deterministic").decode(),),
    )


def _path(reference: Reference | None) -> str | None:
    return None if reference is None else reference.path


def _output(folder: tempfile.TemporaryDirectory[str]) -> Path:
    return Path(folder.name) / "speech.wav"
