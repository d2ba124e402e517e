"""One place for a worker: keeps a process alive in it, knows its slots, and kills it when it stops making progress."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog

from dia_server import metrics
from dia_server.errors import ModelUnavailable, ReplayMismatch
from dia_server.models import registry
from dia_server.pool.clip import SegmentRun
from dia_server.pool.devices import CPU, Device, Pick
from dia_server.pool.failures import error_of, not_loaded
from dia_server.pool.loads import Loads
from dia_server.pool.local import LocalWorker
from dia_server.pool.messages import Answer, Beat, Cancel, Cancelled, Load, LoadFailed, Ready, Report, Run, Stop
from dia_server.settings import Settings
from dia_server.tasks import Audio, Done, Ending, Event, Failed, Marks

if TYPE_CHECKING:
    from dia_server.pool.dispatch import Lane

STOP_SECONDS = 2.0
RESTART_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Attempt(msgspec.Struct):
    """A slot taken on a worker; `run` is None once nobody waits for it any more."""

    model: str
    started: float
    run: SegmentRun | None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A place as `GET /workers` shows it."""

    id: str
    lane: str
    device: str | None
    state: str
    pid: int | None
    uptime_seconds: float
    fingerprints: dict[str, str]
    slots: dict[str, int]
    busy: int
    finished_tasks: int
    deaths: int
    errors: dict[str, str]


class Place:
    """A worker's place in a lane; processes come and go, the place stays.

    Attributes:
        state: `idle` in a lane with an `idle_timeout` until there is work, `starting` until the first model is loaded,
            `up`, `retiring` after the timeout, `waiting` between tries of a crash loop, `stopped`.
        models: what the process has loaded.
        errors: models that it couldn't load, and why.
        device: where the process computes, or the last one did; None before the first.
        memory: bytes of its GPU that the process has taken, and that it keeps for itself.
    """

    def __init__(self, name: str, lane: Lane, settings: Settings, pick: Pick) -> None:
        """`pick` is asked for a device before each start of a process."""
        self.name = name
        self.state: Literal["idle", "starting", "up", "retiring", "waiting", "stopped"] = "starting"
        if lane.config.idle_timeout is not None:
            self.state = "idle"
        self.models: dict[str, Ready] = {}
        self.errors: dict[str, str] = {}
        self.device: Device | None = None
        self.memory = (0, 0)
        self._pick = pick
        self._lane = lane
        self._config = lane.config
        self._settings = settings
        self._worker: LocalWorker | None = None
        self._wanted = asyncio.Event()
        self._attempts: dict[int, Attempt] = {}
        self._loads = Loads(name)
        self._last_attempt = 0
        self._last_heard = self._spawned = time.monotonic()
        self._deaths_in_row = 0
        self._deaths = 0
        self._finished = 0

    @property
    def busy(self) -> int:
        """Slots taken."""
        return len(self._attempts)

    @property
    def slots(self) -> int:
        """Slots of all loaded models."""
        return sum(ready.slots for ready in self.models.values()) if self.state == "up" else 0

    @property
    def crash_looping(self) -> bool:
        """The processes here die before they get anything done."""
        return self._deaths_in_row >= self._settings.crash_loop_deaths

    def slots_of(self, model: str) -> int:
        """Slots for a model; one that isn't loaded yet is taken to have one."""
        if self.state != "up":
            return 0
        ready = self.models.get(model)
        return ready.slots if ready else 1

    def free(self, model: str) -> int:
        """Those of them that are free."""
        return self.slots_of(model) - sum(attempt.model == model for attempt in self._attempts.values())

    def suits(self, run: SegmentRun) -> bool:
        """Whether the run may go here now: a slot is free, and its clip is not bound to another fingerprint."""
        ready = self.models.get(run.task.model)
        return self.free(run.task.model) > 0 and (ready is None or run.clip.fingerprint in (None, ready.fingerprint))

    def assign(self, run: SegmentRun) -> None:
        """Send the run's task to the worker."""
        if not self._attempts:
            self._last_heard = time.monotonic()
        self._last_attempt += 1
        self._attempts[self._last_attempt] = Attempt(run.task.model, time.monotonic(), run)
        model = run.task.model
        self._send(Run(self._last_attempt, run.task, self._settings.models.get(model, {}), self._begin_load(model)))

    def release(self, run: SegmentRun) -> None:
        """Cancel the run if it is here; its slot stays taken until the worker gives it back."""
        for number, attempt in self._attempts.items():
            if attempt.run is run:
                attempt.run = None
                self._send(Cancel(number))

    def wake(self) -> None:
        """There is work that the lane's workers have no slot for."""
        self._wanted.set()

    async def live(self) -> None:
        """Keep a process in this place until the task is cancelled."""
        while True:
            if self._config.idle_timeout is not None:
                self.state = "idle"
                # What woke the place while it had a worker is done; what waits still wakes it again.
                self._wanted.clear()
                self._lane.pump()
                await self._wanted.wait()
            self.state, self._spawned = "starting", time.monotonic()
            try:
                await self._live_once()
            except Exception as error:  # noqa: BLE001 - whatever it was, the place has to be filled again
                log.error("worker can't be started", worker=self.name, reason=repr(error))
                await asyncio.sleep(RESTART_SECONDS)
            self._bury()
            if self.crash_looping:
                self.state = "waiting"
                self._lane.places_changed()
                await asyncio.sleep(self._settings.crash_loop_wait)

    async def _live_once(self) -> None:
        self.device = self._pick()
        self._worker = await LocalWorker.start(self.name, self._config.threads, self.device.uuid, self._receive)
        log.debug("worker started", worker=self.name, pid=self._worker.pid)
        first = self._config.models[0]
        self._send(Load(first, self._settings.models.get(first, {}), self._begin_load(first)))
        await self._worker.dead
        await self._worker.reap()

    async def stop(self) -> None:
        """Let the process end by itself, for two seconds."""
        self.state = "stopped"
        if self._worker is None:
            return
        self._send(Stop())
        await self._worker.reap(patience=STOP_SECONDS)

    def watch(self, late: float) -> None:
        """Kill a process that has made no progress for longer than its bound; let one go that had no work for long.

        What this process itself comes `late`, after it was stopped for a while, doesn't count.
        """
        now, self._last_heard = time.monotonic(), self._last_heard + late
        timeout = self._config.idle_timeout
        if self.state == "up" and not self._attempts and timeout is not None and now - self._last_heard > timeout:
            self.state = "retiring"
            self._send(Stop())
        silent = now - (self._spawned if self.state == "starting" else self._last_heard)
        if self._worker is not None and silent > self._patience():
            log.warning("worker makes no progress, killed", worker=self.name, pid=self._worker.pid, seconds=silent)
            self._worker.kill()
            self._last_heard = self._spawned = now

    def info(self) -> WorkerInfo:
        """What to tell an admin."""
        return WorkerInfo(
            id=self.name,
            lane=self._lane.name,
            device=self.device.name if self.device else None,
            state=self.state,
            pid=self._worker.pid if self._worker and self.state in ("starting", "up") else None,
            uptime_seconds=round(time.monotonic() - self._spawned, 3) if self.state == "up" else 0.0,
            fingerprints={name: ready.fingerprint for name, ready in self.models.items()},
            slots={name: ready.slots for name, ready in self.models.items()},
            busy=self.busy,
            finished_tasks=self._finished,
            deaths=self._deaths,
            errors=dict(self.errors),
        )

    def _begin_load(self, model: str) -> int:
        """The memory that is there for a model, unless it is loaded already: then 0.

        All workers of the lane may come to load it; what those took that have it is not free any more.
        """
        if model in self.models:
            return 0
        sharing = sum(model not in place.models for place in self._lane.places)
        return self._loads.begin(model, (self.device or CPU).name, sharing)

    def _send(self, order: Load | Run | Cancel | Stop) -> None:
        if self._worker is not None:
            self._worker.send(order)

    def _patience(self) -> float:
        wanted = {attempt.model for attempt in self._attempts.values()}
        if self.state == "starting" or wanted - self.models.keys():
            return self._settings.load_timeout
        if self.state != "up" or not wanted:
            return float("inf")
        return self._settings.beat_timeout or max(registry.manifest(model).beat_seconds for model in wanted)

    def _receive(self, answer: Answer) -> None:
        self._last_heard = time.monotonic()
        match answer:
            case Beat(memory=taken):
                self.memory = taken
            case Ready(model=model, memory=taken):
                self.models[model], self.memory = answer, taken
                self.errors.pop(model, None)
                self._loads.end(model)
                self._come_up()
            case LoadFailed(model=model, message=message):
                self.errors[model] = message
                self._drop(model, not_loaded(model, message))
                self._come_up()
            case Report(attempt=number, event=event):
                self._report(number, event)
            case Cancelled(attempt=number):
                self._free_slot(number)

    def _come_up(self) -> None:
        if self.state == "starting":
            self.state = "up"
        self._lane.places_changed()

    def _drop(self, model: str, error: ModelUnavailable) -> None:
        for number in [number for number, attempt in self._attempts.items() if attempt.model == model]:
            attempt = self._attempts.pop(number)
            if attempt.run is not None:
                attempt.run.fail(error)

    def _report(self, number: int, event: Event) -> None:
        attempt = self._attempts[number]
        if attempt.run is not None:
            try:
                self._pass_on(attempt.run, event)
            except ReplayMismatch as mismatch:
                metrics.MISMATCHES.labels(self._lane.name).inc()
                log.error("replay mismatch", worker=self.name, reason=mismatch.message)
                attempt.run.fail(mismatch)
                self.release(attempt.run)
        if isinstance(event, Ending):
            self._finished += 1
            self._deaths_in_row = 0
            self._lane.finished(time.monotonic() - attempt.started)
            self._free_slot(number)

    def _pass_on(self, run: SegmentRun, event: Event) -> None:
        match event:
            case Audio() | Marks():
                ours = self.models[run.task.model].fingerprint
                run.clip.fingerprint = run.clip.fingerprint or ours
                if run.clip.fingerprint != ours:
                    # Two segments of a clip started on unlike workers at once; the second goes where the first went.
                    self.release(run)
                    run.ledger.restart()
                    self._lane.submit(run)
                else:
                    run.accept(event)
            case Done():
                run.complete(event)
            case Failed():
                run.fail(error_of(event))

    def _free_slot(self, number: int) -> None:
        # A cancel and the end of its attempt may cross on the pipe; the slot is given back once.
        if self._attempts.pop(number, None) is not None:
            self._lane.pump()

    def _bury(self) -> None:
        """Take the dead process's runs back to the queue."""
        runs = [attempt.run for attempt in self._attempts.values() if attempt.run is not None]
        if self.state != "retiring":
            metrics.DEATHS.labels(self._lane.name).inc()
            self._deaths += 1
            self._deaths_in_row += 1
            log.warning("worker died", worker=self.name, pid=self._worker and self._worker.pid, runs=len(runs))
        self._worker = None
        self._attempts.clear()
        self.models.clear()
        self.memory = (0, 0)
        self.state = "starting"
        for run in runs:
            self._lane.replay(run)
