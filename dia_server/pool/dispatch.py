"""A lane's queue: the segment that a listener lacks next goes first, then read-ahead, then what nobody waits for."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from itertools import count

from dia_server import metrics
from dia_server.errors import DeadlineExceeded, GenerationFailed, WorkersDie
from dia_server.pool.clip import SegmentRun
from dia_server.pool.devices import Pick
from dia_server.pool.supervisor import Place
from dia_server.settings import Lane as LaneConfig
from dia_server.settings import Settings

SMOOTHING = 0.1


class Lane:
    """Places that share one queue.

    Attributes:
        segment_seconds: how long a segment has taken on its worker lately.
    """

    def __init__(
        self, name: str, config: LaneConfig, settings: Settings, picks: Sequence[Pick], *, has_listeners: bool = True
    ) -> None:
        """One place for each way to pick a device; where there are no listeners, none has to be left a slot."""
        self.name = name
        self._has_listeners = has_listeners
        self.config = config
        self._settings = settings
        self.places = [Place(f"{name}-{number}", self, settings, pick) for number, pick in enumerate(picks)]
        self.segment_seconds = 0.0
        self._waiting: list[SegmentRun] = []
        self._numbers = count()
        for counter in (metrics.DEATHS, metrics.REPLAYS, metrics.MISMATCHES):
            counter.labels(name)
        metrics.QUEUED.labels(name).set_function(lambda: len(self._waiting))
        metrics.WORKERS.labels(name).set_function(lambda: sum(place.state == "up" for place in self.places))
        metrics.SLOTS.labels(name).set_function(lambda: sum(place.slots for place in self.places))
        metrics.BUSY.labels(name).set_function(lambda: sum(place.busy for place in self.places))

    @property
    def hopeless(self) -> bool:
        """No worker is up or starting for the first time: they all die before they get anything done."""
        return all(place.crash_looping and place.state != "up" for place in self.places)

    def submit(self, run: SegmentRun) -> None:
        """Queue a run, behind all others of its priority."""
        run.order = next(self._numbers)
        self._enqueue(run)
        self.pump()

    def promote(self, run: SegmentRun) -> None:
        """A listener waits for this run now: it goes before all read-ahead, and its time is running."""
        if run.urgent or run.ended or run.clip.background:
            return
        waiting = self._remove(run)
        run.urgent = True
        seconds = self.config.task_timeout or self._settings.segment_timeout
        run.start_deadline(seconds, self._too_late(seconds))
        if waiting:
            self._enqueue(run)
            self.pump()

    def withdraw(self, run: SegmentRun) -> None:
        """Take a run out of the queue or off its worker; nothing happens to one that is in neither."""
        run.abandon()
        if not self._remove(run):
            for place in self.places:
                place.release(run)

    def replay(self, run: SegmentRun) -> None:
        """The run's worker died: run it again, ahead of what came later, unless it seems to kill workers."""
        run.count_death()
        if run.strikes >= self._settings.task_strikes:
            reason = f"Workers with the model '{run.task.model}' die of this input again and again; it was given up"
            run.fail(GenerationFailed(f"{reason}. The log of the process that they belong to says how they died"))
            return
        metrics.REPLAYS.labels(self.name).inc()
        self._enqueue(run)
        self.pump()

    def seconds_to_clear(self, waiting: int) -> int:
        """A guess at when a queue of `waiting` clips will have got its first slots, 1 s at least and 30 s at most."""
        slots = max(1, sum(place.slots for place in self.places))
        return math.ceil(min(30.0, max(1.0, waiting * self.segment_seconds / slots)))

    def places_changed(self) -> None:
        """A worker came up or gave up."""
        if self.hopeless:
            while self._waiting:
                self._waiting.pop().fail(self.no_worker())
        self.pump()

    def finished(self, seconds: float) -> None:
        """A segment took so long on its worker."""
        self.segment_seconds += SMOOTHING * (seconds - self.segment_seconds)

    def no_worker(self) -> WorkersDie:
        """The error for a lane without hope."""
        return WorkersDie(
            f"All workers of lane '{self.name}' die at start; see the server's log and GET /workers",
            retry_after=math.ceil(self._settings.crash_loop_wait),
        )

    def pump(self) -> None:
        """Give free slots to waiting runs."""
        full: set[str] = set()
        for run in tuple(self._waiting):
            model = run.task.model
            if model in full:
                continue
            if run.clip.background and not self._may_speak(run):
                # Nobody waits for it whose patience would end, and a lost GPU may never come back.
                run.start_deadline(self._settings.segment_timeout, self._too_late(self._settings.segment_timeout))
            if sum(place.free(model) for place in self.places) <= self._spared(run):
                full.add(model)
                continue
            suitable = [place for place in self.places if place.suits(run)]
            if suitable:
                self._waiting.remove(run)
                run.clip.waiting = False
                # A place that comes back from a crash loop has to show that it works.
                max(suitable, key=lambda place: (model in place.models, -place.busy, place.crash_looping)).assign(run)
        if self._waiting:
            for place in self.places:
                place.wake()

    def _too_late(self, seconds: float) -> DeadlineExceeded:
        return DeadlineExceeded(f"No worker had finished this task after {seconds:g} s")

    def _may_speak(self, run: SegmentRun) -> bool:
        """Whether a worker that is up could go on with the run's clip, once it has a slot."""
        wanted = run.clip.fingerprint
        ready = [place.models.get(run.task.model) for place in self.places if place.state == "up"]
        return wanted is None or any(each is None or each.fingerprint == wanted for each in ready)

    def _spared(self, run: SegmentRun) -> int:
        """How many free slots a run has to leave to listeners."""
        if run.urgent:
            return 0
        slots = sum(place.slots_of(run.task.model) for place in self.places)
        if run.clip.background and (not self._has_listeners or slots == 1):
            return 0
        return 1

    def _enqueue(self, run: SegmentRun) -> None:
        insort(self._waiting, run, key=lambda run: (not run.urgent, run.clip.background, run.order))

    def _remove(self, run: SegmentRun) -> bool:
        if run not in self._waiting:
            return False
        self._waiting.remove(run)
        return True
