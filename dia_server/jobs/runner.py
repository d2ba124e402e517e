"""Runs jobs: claims as many as there are workers for, keeps their leases, and writes down what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Protocol, TypeVar

import structlog

from dia_server.background import wait_for_event
from dia_server.errors import DiaServerError, StorageFull, Unavailable, WorkersDie
from dia_server.files import sync_folder
from dia_server.jobs.job import Lease, Wanted
from dia_server.jobs.leases import Leases
from dia_server.settings import Settings

# Between looks for work that another process accepted; at the leases, which notice a cancellation; and at those of lost
# runners.
LOOK_SECONDS = 0.5
KEEP_SECONDS = 1.0
OTHERS_SECONDS = 5.0
# After the database or the disk failed.
REST_SECONDS = 2.0
# A claim waits for the disk, or for the network.
AHEAD_SECONDS = 0.2
MOST_AHEAD = 8
SMOOTHING = 0.2
SERVER_ERRORS = 500

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class Handler(Protocol):
    """Does the jobs of one kind."""

    async def run(
        self, job_id: str, payload: bytes, stem: Path, report: Callable[[float], None]
    ) -> tuple[str | None, dict[str, Any]]:
        """Do a job; returns the name of the file that came of it, if one did, and what is to be known of it.

        The file's name begins with `stem`, a path that no other attempt has; once the job is done, it begins with the
        job's id alone. `report` takes the share that is done, from 0 to 1.

        Raises:
            Unavailable, StorageFull, OSError: it can be done later; where workers die of all that there is to do, for
                a few attempts.
            DiaServerError: it can't be done.
        """


class Runner:
    """One process' runner of jobs."""

    def __init__(
        self,
        leases: Leases,
        handlers: Mapping[str, Handler],
        settings: Settings,
        folder: Path,
        slots: Callable[[], int],
        on_need: Callable[[], Mapping[frozenset[str], int]] = dict,
    ) -> None:
        """`folder` gets the files; `slots` tells how many tasks can run at once.

        Those of the models in `on_need` have room of their own, so that they keep no others waiting.
        """
        self._leases = leases
        self._handlers = handlers
        self._settings = settings
        self._folder = folder
        self._flush = partial(sync_folder, folder)
        self._slots = slots
        self._on_need = on_need
        self._running: dict[Lease, asyncio.Task[None]] = {}
        self._progress: dict[Lease, float] = {}
        self._told: dict[Lease, float] = {}
        # They see by themselves whether their job is still theirs, and must not leave their file behind before.
        self._completing: set[Lease] = set()
        self._woken = asyncio.Event()
        self._job_seconds = 60.0
        self._resting_until = self._next_need = 0.0
        self._keepers: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None
        # Since when the database has answered, as far as this process can tell.
        self._steady_since: float | None = monotonic()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run jobs until the block ends; those that are not done then are given back."""
        count = await self._leases.take_over()
        if count:
            log.info("jobs taken up again", jobs=count)
        self._keepers = [
            asyncio.create_task(self._claim_for_ever(), name="job claims"),
            asyncio.create_task(self._keep_for_ever(), name="job leases"),
        ]
        try:
            yield
        finally:
            self.halt()
            if self._ending is not None:
                await self._ending

    def wake(self) -> None:
        """There is a new job."""
        self._woken.set()

    def halt(self) -> None:
        """Take no more jobs, and give back those that are not done; may be called again."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="end of jobs")

    async def _end(self) -> None:
        tasks = [*self._keepers, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Also those that were just being claimed.
        with suppress(DiaServerError):
            await self._leases.take_over()

    async def _claim_for_ever(self) -> None:
        while True:
            self._woken.clear()
            try:
                if not await self._claim():
                    await self._until_something_waits()
            except (Unavailable, StorageFull) as error:
                self._note_outage(error)
            except Exception:
                log.exception("jobs can't be claimed")
                await wait_for_event(self._woken, LOOK_SECONDS)

    async def _until_something_waits(self) -> None:
        """One look for all lanes, since most of the time there is nothing."""
        anything, found = Wanted(kinds=tuple(self._handlers), others=True), False
        while not found:
            await wait_for_event(self._woken, LOOK_SECONDS)
            found = self._woken.is_set() or (not self._is_resting() and await self._leases.has_waiting(anything))

    async def _claim(self) -> int:
        """Claim what there are workers for; returns how many jobs that were."""
        kinds, slots, on_need = tuple(self._handlers), self._slots(), self._on_need()
        others = Wanted(kinds=kinds, models=frozenset().union(*on_need), others=True)
        count = await self._claim_some(others, slots + self._ahead()) if slots else 0
        # Not with every job that ends: their lanes are rarely used, and take seconds to start.
        if monotonic() >= self._next_need:
            self._next_need = monotonic() + LOOK_SECONDS
            for models, most in on_need.items():
                count += await self._claim_some(Wanted(kinds=kinds, models=models), most)
        return count

    async def _claim_some(self, wanted: Wanted, most: int) -> int:
        # What is only to be written down takes no slot any more.
        room = most - sum(share < 1 for lease, share in self._progress.items() if wanted.has(lease))
        if room <= 0 or self._is_resting() or not await self._leases.has_waiting(wanted):
            return 0
        leases = await self._leases.claim(wanted, room)
        for lease in leases:
            self._progress[lease] = 0.0
            self._running[lease] = asyncio.create_task(self._run(lease), name=f"job {lease.id}")
        return len(leases)

    def _is_resting(self) -> bool:
        return monotonic() < self._resting_until

    def _ahead(self) -> int:
        """How many jobs to claim beyond what there are slots for: those that would begin while others are claimed.

        Long ones are left to whoever has a slot for them.
        """
        return min(MOST_AHEAD, round(AHEAD_SECONDS / self._job_seconds))

    async def _run(self, lease: Lease) -> None:
        started = monotonic()
        try:
            await self._attempt(lease)
        except Exception:
            # The lease ends, and another runner tries.
            log.exception("job's end can't be written", job=lease.id)
        finally:
            self._job_seconds += SMOOTHING * (monotonic() - started - self._job_seconds)
            del self._running[lease], self._progress[lease]
            self._woken.set()

    async def _attempt(self, lease: Lease) -> None:
        stem = self._folder / f"{lease.id}.{lease.token}"

        def report(share: float) -> None:
            self._progress[lease] = share
            if share >= 1:
                self._woken.set()

        try:
            file, result = await self._handlers[lease.kind].run(lease.id, lease.payload, stem, report)
        except asyncio.CancelledError:
            # The job may be forgotten by now, so that nobody else would look for what it has left.
            for path in self._folder.glob(f"{stem.name}.*"):
                path.unlink(missing_ok=True)
            raise
        except (DiaServerError, OSError) as error:
            await self._end_early(lease, error)
        except Exception as error:
            log.exception("job failed", job=lease.id)
            reason = f"Internal error ({type(error).__name__}); the log of the server or worker that ran it says more"
            await self._until_written(lambda: self._leases.fail(lease, reason))
        else:
            await self._complete(lease, stem, file, result)

    async def _complete(self, lease: Lease, stem: Path, file: str | None, result: dict[str, Any]) -> None:
        name = file and f"{lease.id}{file.removeprefix(stem.name)}"

        def publish() -> None:
            # Where the database didn't tell that it was done, it is done again.
            if file is not None and (self._folder / file).exists():
                (self._folder / file).replace(self._folder / str(name))

        flush = None if file is None else self._flush
        self._completing.add(lease)
        try:
            is_done = await self._until_written(lambda: self._leases.complete(lease, name, result, publish, flush))
        finally:
            self._completing.discard(lease)
        if is_done:
            log.info("job done", job=lease.id, kind=lease.kind, file=name, **result)
            return
        log.warning("late result discarded", job=lease.id)
        if file is not None:
            (self._folder / file).unlink(missing_ok=True)

    async def _end_early(self, lease: Lease, error: DiaServerError | OSError) -> None:
        """It can be done later, or may be, or never."""
        log.warning("job not done", job=lease.id, attempt=lease.attempts, reason=str(error))
        is_final = isinstance(error, DiaServerError) and (error.final or error.status < SERVER_ERRORS)
        is_blameless = isinstance(error, OSError | Unavailable | StorageFull) and not isinstance(error, WorkersDie)
        if is_final or (not is_blameless and lease.attempts >= self._settings.job_max_attempts):
            await self._until_written(lambda: self._leases.fail(lease, str(error)))
            return
        if isinstance(error, OSError | StorageFull):
            self._resting_until = monotonic() + REST_SECONDS
        await self._until_written(lambda: self._leases.give_back(lease, str(error), blame=not is_blameless))

    async def _until_written(self, write: Callable[[], Awaitable[Result]]) -> Result:
        """Wait for a database that is away: what came of a job is not to be lost."""
        while True:
            try:
                return await write()
            except (Unavailable, StorageFull) as error:
                self._note_outage(error)
                await asyncio.sleep(REST_SECONDS)

    async def _keep_for_ever(self) -> None:
        looked = renewed = float("-inf")
        while True:
            now = monotonic()
            try:
                is_due = now - renewed >= self._settings.job_lease_seconds / 3
                await self._keep(everything=is_due)
                renewed = now if is_due else renewed
                if now - looked >= OTHERS_SECONDS or self._steady_since is None:
                    await self._look_after_others()
                    looked = now
            except (Unavailable, StorageFull) as error:
                self._note_outage(error)
            except Exception:
                log.exception("leases can't be kept")
            await asyncio.sleep(KEEP_SECONDS)

    async def _look_after_others(self) -> None:
        """Give back the jobs of lost runners; leases that ended while the database was away get time again first."""
        now = monotonic()
        if self._steady_since is None:
            await self._leases.excuse()
            self._steady_since = now
            log.info("database is back")
        if now - self._steady_since >= self._settings.job_lease_seconds:
            await self._leases.expire()

    async def _keep(self, *, everything: bool) -> None:
        """Stop what isn't ours any more; renew all leases, or those of jobs that have got on."""
        leases = list(self._running)
        if not leases:
            return
        held = await self._leases.held(leases)
        for lease in leases:
            if lease.number not in held and lease in self._running and lease not in self._completing:
                log.info("job taken away", job=lease.id)
                self._running[lease].cancel()
        moved = {
            lease: share
            for lease, share in self._progress.items()
            if lease.number in held and (everything or share != self._told.get(lease))
        }
        if moved:
            await self._leases.renew(moved)
        self._told = {lease: share for lease, share in (self._told | moved).items() if lease in self._progress}

    def _note_outage(self, error: DiaServerError) -> None:
        if self._steady_since is not None:
            log.warning("database is away", reason=error.message)
        self._steady_since = None
        self._resting_until = monotonic() + REST_SECONDS
