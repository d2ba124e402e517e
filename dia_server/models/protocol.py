"""What a model is to the rest of the house: a manifest to read and an engine to step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from dia_server.models.memory import Need
from dia_server.script.text import Dialogue
from dia_server.settings import Settings
from dia_server.tasks import Ending, Event, Failed, Task

log = logging.getLogger(__name__)

DeviceName = Literal["cpu", "cuda"]


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A file of weights that does not come with its package.

    Attributes:
        name: what the model calls it.
        description: a few words for lists.
        licence: SPDX id.
        path: where it belongs.
        size: in bytes.
        sha256: hex digits; a file with another one is not kept.
    """

    name: str
    description: str
    licence: str
    url: str
    path: Path
    size: int
    sha256: str


class Recordings(msgspec.Struct, frozen=True, kw_only=True):
    """What a model asks of the recordings that it imitates.

    Attributes:
        most_seconds: of each one.
        most_seconds_together: of all that one task has.
        needs_transcript: it has to know what is said in them.
        are_needed: it has no voice of its own.
    """

    most_seconds: float = math.inf
    most_seconds_together: float = math.inf
    needs_transcript: bool = False
    are_needed: bool = False


def no_downloads(settings: Settings) -> tuple[Download, ...]:
    """What a model has that comes whole."""
    del settings
    return ()


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """Weights that are a folder of files: one on this machine, or one that the Hugging Face hub has.

    Attributes:
        name: what the model calls it.
        source: a folder, or a hub's id like `owner/name`.
        revision: the commit; None is the last one that was fetched.
        setting: of the model's own settings, the one that records the commit.
        files: patterns of what is needed of it.
    """

    name: str
    source: str
    revision: str | None
    setting: str
    files: tuple[str, ...]


class NoSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model without settings of its own."""


def no_repositories(setup: Any) -> tuple[Repository, ...]:
    """What a model has whose weights are no folders."""
    del setup
    return ()


def nothing_to_check(setup: Any) -> None:
    """Of a model that is read from no folders."""
    del setup


class EngineLost(BaseException):
    """Raised by a step when what the engine computes with is gone: its worker ends, and its tasks run again elsewhere.

    Not to be caught by what takes a failed task for an event.
    """


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What can be known of a model without loading it.

    Attributes:
        name: the registered name, as clients send it in `model`.
        description: one sentence for lists.
        capabilities: names of the task structs that it takes, by their tag.
        engine: `module:function` that loads the engine; the function takes the number of threads and a `setup`.
        options: the struct of the model's own options (tasks carry them as plain data).
        setup: the struct of the model's own settings, those under `models` in config.yaml.
        sample_rate: of the samples that it makes, in Hz.
        licence: SPDX id of the weights' licence.
        source: where the weights come from.
        packages: modules that have to be importable.
        extra: the extra of dia-server that brings them; None if they come with it.
        downloads: lists what can be fetched besides under these settings, here already or not.
        repositories: lists the folders that the model is read from, by its `setup`; without one of them it can't be.
        rank: `engine: auto` takes the model with the highest that can run; one with 0 it never takes.
        check: raises ModelUnavailable, by its `setup`, if what it is read from is missing or damaged, as far as can be
            told without reading it all; the message says what to do.
        memory: what a worker takes for it on a device, by its `setup`; given, `engine: auto` takes it only on a GPU.
            Raises as `check` does.
        languages: ISO 639-1 codes; empty means any text.
        hop_length: samples per frame of the model, the unit in which its work is counted.
        speed: the range of `Delivery.speed` that the model can do itself.
        directable: the other fields of `Delivery` that the model acts on, and `audio_prompt` if it imitates recordings.
        acts_with: options that do nothing by themselves, each with what has to be there, any of these: `emotion`,
            `emotion_reference`, `audio_prompt`, or the names of options that are on.
        for_tests: it says nothing that anybody would want to hear, and menus leave it out.
        nonverbal: the tags, without parentheses, that the model speaks.
        word_times: it tells when each word is heard (`Marks`).
        recordings: what those have to be like that it imitates.
        dialogue: how much it reads at once, if it reads the turns of several speakers in one task; else it gets a
            sentence at a time.
        findings_advice: what to do about a segment that it found fault with (`Done.findings`).
        beat_seconds: longest time that one step may take before the worker counts as hung.
        devices: `cpu`, `cuda` or both; on `cuda` the engine finds one GPU, and no other is visible to it. One that
            should compute there and can't has to raise: on the processor its bytes would be others.
    """

    name: str
    description: str
    capabilities: frozenset[str]
    engine: str
    options: type[msgspec.Struct]
    setup: type[msgspec.Struct] = NoSetup
    sample_rate: int
    licence: str
    source: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    downloads: Callable[[Settings], tuple[Download, ...]] = no_downloads
    repositories: Callable[[Any], tuple[Repository, ...]] = no_repositories
    rank: int = 0
    check: Callable[[Any], None] = nothing_to_check
    memory: Callable[[Any, DeviceName], Need] | None = None
    languages: tuple[str, ...] = ()
    hop_length: int = 1
    speed: tuple[float, float] = (1.0, 1.0)
    directable: frozenset[str] = frozenset()
    acts_with: Mapping[str, frozenset[str]] = {}
    for_tests: bool = False
    nonverbal: frozenset[str] = frozenset()
    word_times: bool = False
    recordings: Recordings = Recordings()
    dialogue: Dialogue | None = None
    findings_advice: str = ""
    beat_seconds: float = 10.0
    devices: frozenset[DeviceName] = frozenset({"cpu"})

    def missing_packages(self) -> list[str]:
        """The modules of `packages` that are not installed."""
        return [name for name in self.packages if find_spec(name) is None]

    def not_installed(self) -> str:
        """What is missing of `packages`, and what brings it; empty if nothing is."""
        missing = ", ".join(self.missing_packages())
        return f"its packages are not installed ({missing}); `{self.installation}` brings them" if missing else ""

    @property
    def installation(self) -> str:
        """The command that brings the model's packages."""
        return f"pip install 'dia-server[{self.extra}]'" if self.extra else "pip install dia-server"


class Engine(Protocol):
    """A loaded model that works on up to `slots` tasks at once, one step at a time.

    Attributes:
        slots: how many tasks may be admitted at the same time.
        fingerprint: names everything that the samples depend on besides the task: equal fingerprints, equal bytes.
    """

    slots: int
    fingerprint: str

    def admit(self, task_id: int, task: Task) -> None:
        """Take a task; only called while a slot is free."""

    def step(self) -> Iterable[tuple[int, Event]]:
        """Go one step on with all admitted tasks. `Done` or `Failed` frees the task's slot.

        Raises:
            EngineLost: it can't go on, with this task or any other.
        """

    def cancel(self, task_id: int) -> None:
        """Forget a task and free its slot; unknown ids are ignored."""

    def close(self) -> None:
        """Release what the engine holds."""


class Sequential:
    """An engine of a plain `run(task)`: one slot, one event a step; None is a step without one."""

    slots = 1

    def __init__(self, run: Callable[[Any], Iterator[Event | None]], fingerprint: str) -> None:
        """`run` takes the structs of the capabilities that the model's manifest names."""
        self.fingerprint = fingerprint
        self._run = run
        self._task_id: int | None = None
        self._events: Iterator[Event | None] = iter(())

    def admit(self, task_id: int, task: Task) -> None:
        self._task_id, self._events = task_id, self._run(task)

    def step(self) -> Iterable[tuple[int, Event]]:
        if self._task_id is None:
            return []
        task_id = self._task_id
        try:
            event = next(self._events)
        except Exception:  # whatever a model raises must end its own task only
            log.exception("a task failed")
            event = Failed(message="The model failed on this text; the server's log says why")
        if event is None:
            return []
        if isinstance(event, Ending):
            self._task_id = None
        return [(task_id, event)]

    def cancel(self, task_id: int) -> None:
        if task_id == self._task_id:
            self._task_id, self._events = None, iter(())

    def close(self) -> None:
        self._task_id = None
