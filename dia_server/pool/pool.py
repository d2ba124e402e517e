"""The pool: lanes of workers, and the door through which clips come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Literal

import structlog

from dia_server import metrics
from dia_server.background import wait_for_event
from dia_server.errors import Draining, NoWorker, QueueFull
from dia_server.models import registry
from dia_server.pool.choice import choose
from dia_server.pool.clip import Clip
from dia_server.pool.devices import Devices
from dia_server.pool.dispatch import Lane
from dia_server.pool.supervisor import Place, WorkerInfo
from dia_server.settings import Settings

WATCH_SECONDS = 0.1

log = structlog.get_logger(__name__)


@asynccontextmanager
async def running_pool(settings: Settings, *, has_listeners: bool = True) -> AsyncIterator[Pool]:
    """A pool whose workers are starting; they end with the block."""
    pool = Pool(settings, has_listeners=has_listeners)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


class Pool:
    """All workers of this server. Create, start, use and close it on one event loop."""

    def __init__(self, settings: Settings, *, has_listeners: bool = True) -> None:
        """Look for GPUs; where there are no listeners, background work takes every slot.

        Raises:
            SettingsError: the settings want GPUs that aren't there, or a model's own settings are wrong.
        """
        self._settings = settings
        self.devices = Devices(settings)
        self.choice = choose(settings, self.devices)
        lanes = {name: self.choice.arranged(lane, settings) for name, lane in settings.lanes.items()}
        self.lanes = {
            name: Lane(name, config, settings, self.devices.picks(config), has_listeners=has_listeners)
            for name, config in lanes.items()
        }
        self.draining = False
        self._clips: set[Clip] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._keepers: list[asyncio.Task[None]] = []
        self._at_drain: list[Callable[[], object]] = []
        metrics.CLIPS.set_function(lambda: len(self._clips))
        metrics.CLIPS_WAITING.set_function(self._waiting)

    @property
    def places(self) -> list[Place]:
        """All places of all lanes."""
        return [place for lane in self.lanes.values() for place in lane.places]

    @property
    def standing(self) -> list[Place]:
        """The places whose workers are not only started on need."""
        return [place for lane in self.lanes.values() if lane.config.idle_timeout is None for place in lane.places]

    async def start(self) -> None:
        """Start all workers; returns before they are up."""
        self.devices.announce()
        model, reason = self.choice.default(self._settings)
        log.info("default model", model=model, reason=reason)
        self.devices.watch.start()
        self._keepers = [asyncio.create_task(place.live(), name=place.name) for place in self.places]
        self._keepers.append(asyncio.create_task(self._watch(), name="watchdog"))

    def check_drain(self) -> None:
        """Whether the pool goes on.

        Raises:
            Draining: it does not.
        """
        if self.draining:
            raise Draining("The server is shutting down; try again in a moment")

    def check_room(self) -> None:
        """Whether a clip may come in, to be asked before any work is done for one.

        Raises:
            Draining, QueueFull: no work is taken now.
        """
        self.check_drain()
        waiting = self._waiting()
        if waiting >= self._settings.max_queue or len(self._clips) >= self._settings.max_clips:
            raise QueueFull(
                f"{len(self._clips)} requests are open and {waiting} of them wait for a worker; "
                f"allowed are {self._settings.max_clips} and {self._settings.max_queue}",
                retry_after=max(lane.seconds_to_clear(waiting) for lane in self.lanes.values()),
            )

    def open(self, model: str, *, background: bool = False) -> Clip:
        """Admit a clip that a model of the pool will speak.

        Whoever opens one in the background bounds their number, and ends it when the pool drains.

        Raises:
            Draining, NoWorker, QueueFull: no work is taken now.
        """
        if background:
            self.check_drain()
        else:
            self.check_room()
        name = self._settings.lane_of(model)
        if name is None:
            raise NoWorker(f"No lane runs model '{model}'; add it to `lanes` in config.yaml", retry_after=60)
        lane = self.lanes[name]
        if lane.hopeless:
            raise lane.no_worker()
        if background:
            return Clip(lane, lambda _: None, background=True)
        clip = Clip(lane, self._clip_closed)
        self._clips.add(clip)
        self._idle.clear()
        return clip

    def at_drain(self, call: Callable[[], object]) -> None:
        """Have work ended that nobody waits for before the pool waits for the rest."""
        self._at_drain.append(call)

    async def drain(self, grace: float) -> None:
        """Take no new clips, wait until the open ones have ended, `grace` seconds at most, and break the others off."""
        self.draining = True
        for call in self._at_drain:
            call()
        await wait_for_event(self._idle, grace)
        for clip in tuple(self._clips):
            clip.fail(Draining("The server has shut down before this was done; try again in a moment"))

    async def close(self) -> None:
        """End all workers."""
        self.draining = True
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(place.stop() for place in self.places))
        self.devices.watch.stop()

    def health(self) -> Literal["healthy", "starting", "degraded"]:
        """`starting` until a worker is up; `degraded` while a place crash-loops or a model can't be loaded."""
        if any(place.crash_looping or place.errors for place in self.places):
            return "degraded"
        return "healthy" if self.up else "starting"

    @property
    def up(self) -> bool:
        """At least one worker that is not only started on need has a model and takes tasks."""
        return any(place.state == "up" and place.models for place in self.standing)

    def fingerprint(self, model: str) -> str | None:
        """Of the workers that have a model loaded; None while none has, or where they differ."""
        found = {place.models[model].fingerprint for place in self.places if model in place.models}
        return found.pop() if len(found) == 1 else None

    def slots(self) -> int:
        """How many tasks the workers that are not only started on need can run at once."""
        return sum(_slots(place) for place in self.standing if place.state == "up" and place.models)

    def on_need(self) -> dict[frozenset[str], int]:
        """The speaking models of each lane that is started on need, and how many of their tasks it can run at once."""
        speaking = registry.speaking()
        lanes = [lane for lane in self.lanes.values() if lane.config.idle_timeout is not None]
        models = [frozenset(m for m in speaking if self._settings.lane_of(m) == lane.name) for lane in lanes]
        return {names: sum(map(_slots, lane.places)) for names, lane in zip(models, lanes, strict=True) if names}

    def crew(self) -> tuple[int, int]:
        """How many of those workers there are, and how many of them are at work."""
        return len(self.standing), sum(place.busy > 0 for place in self.standing)

    def workers(self) -> list[WorkerInfo]:
        """Every worker's place."""
        return [place.info() for place in self.places]

    def _waiting(self) -> int:
        return sum(clip.waiting for clip in self._clips)

    def _clip_closed(self, clip: Clip) -> None:
        self._clips.discard(clip)
        if not self._clips:
            self._idle.set()

    async def _watch(self) -> None:
        while True:
            due = monotonic() + WATCH_SECONDS
            await asyncio.sleep(WATCH_SECONDS)
            late = max(0.0, monotonic() - due)
            metrics.LOOP_LAG.observe(late)
            for place in self.places:
                place.watch(late)


def _slots(place: Place) -> int:
    """The tasks of one model that a worker runs at once; one that isn't there yet is taken to run one."""
    return max((ready.slots for ready in place.models.values()), default=1)
