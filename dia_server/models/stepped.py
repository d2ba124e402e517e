"""An engine of one long call, which the worker steps all the same."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol

from dia_server.tasks import Audio, Ending, Event, Failed, Task

log = logging.getLogger(__name__)


class Tick(Protocol):
    """How work says that it gets on, and hands over what there is of its sound."""

    def __call__(self, audio: Audio | None = None, /) -> None:
        """Say so; ends the work once its task is cancelled."""


class CancelledWork(BaseException):
    """Raised by a tick once the task is cancelled; not to be caught by what it ends."""


class _Attempt:
    """A task at work; `None` in `events` is a tick."""

    def __init__(self, task_id: int) -> None:
        self.task_id = task_id
        self.events: SimpleQueue[Audio | Ending | None] = SimpleQueue()
        self.cancelled = threading.Event()

    def tick(self, audio: Audio | None = None, /) -> None:
        if self.cancelled.is_set():
            raise CancelledWork
        self.events.put(audio)


class Stepped:
    """An engine of a plain `work(task, tick)`: one slot, on a thread of its own.

    `work` calls `tick` as it gets on. A step lasts until the next tick, so that the worker beats while there is
    progress and only then, and hears of a cancel in the middle of the work.
    """

    slots = 1

    def __init__(self, work: Callable[[Any, Tick], Ending], fingerprint: str) -> None:
        """`work` takes the structs of the capabilities that the model's manifest names."""
        self.fingerprint = fingerprint
        self._work = work
        self._thread = ThreadPoolExecutor(1)
        self._attempt: _Attempt | None = None

    def admit(self, task_id: int, task: Task) -> None:
        self._attempt = _Attempt(task_id)
        self._thread.submit(self._run, self._attempt, task)

    def step(self) -> Iterable[tuple[int, Event]]:
        if self._attempt is None or (event := self._attempt.events.get()) is None:
            return []
        task_id = self._attempt.task_id
        if isinstance(event, Ending):
            self._attempt = None
        return [(task_id, event)]

    def cancel(self, task_id: int) -> None:
        if self._attempt is None or self._attempt.task_id != task_id:
            return
        self._attempt.cancelled.set()
        # The slot is free when the thread is.
        while not isinstance(self._attempt.events.get(), Ending):
            pass
        self._attempt = None

    def close(self) -> None:
        if self._attempt is not None:
            self.cancel(self._attempt.task_id)
        self._thread.shutdown()

    def _run(self, attempt: _Attempt, task: Task) -> None:
        ending: Ending = Failed(message="The task was cancelled")
        try:
            ending = self._work(task, attempt.tick)
        except CancelledWork:
            pass
        except FileNotFoundError as error:
            # A task's file goes with whoever asked, perhaps before the order to cancel is heard.
            log.warning("a task failed: %s is not there", error.filename)
            ending = Failed(message="A file that the task needs is not there")
        except Exception:  # whatever a model raises must end its own task only
            log.exception("a task failed")
            ending = Failed(message="The model failed on this input; the server's log says why")
        finally:
            attempt.events.put(ending)
