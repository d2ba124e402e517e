"""The pool's side of what a listener gets: a clip's runs, and the ledger that makes a replay seamless."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from dia_server.errors import DiaServerError, ReplayMismatch
from dia_server.tasks import SAMPLE_BYTES, Audio, Done, Marks, Speak, Task

if TYPE_CHECKING:
    from dia_server.pool.dispatch import Lane


class Ledger:
    """Counts a segment's accepted samples, and holds every replay against them.

    A replay may cut its samples into other events than the first attempt did; what was accepted before is compared
    by running hash and dropped.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.seen = 0
        self._accepted_marks = 0
        self._seen_marks = 0
        self._accepted_hash = hashlib.blake2b()
        self._replay_hash = hashlib.blake2b()

    def restart(self) -> None:
        """A new attempt begins at sample 0."""
        self.seen = 0
        self._seen_marks = 0
        self._replay_hash = hashlib.blake2b()

    def accept_marks(self) -> bool:
        """Whether the marks that came are new."""
        self._seen_marks += 1
        is_new = self._seen_marks > self._accepted_marks
        self._accepted_marks = max(self._accepted_marks, self._seen_marks)
        return is_new

    def accept(self, audio: Audio) -> bytes:
        """The bytes of `audio` that are new.

        Raises:
            ReplayMismatch: samples are missing, or differ from those accepted before.
        """
        if audio.first_sample != self.seen or len(audio.pcm) % SAMPLE_BYTES:
            raise ReplayMismatch(f"expected sample {self.seen}, got {audio.first_sample}")
        known = min(len(audio.pcm), (self.accepted - self.seen) * SAMPLE_BYTES)
        self._replay_hash.update(audio.pcm[:known])
        if known and self.seen + known // SAMPLE_BYTES == self.accepted:
            self._compare()
        new = audio.pcm[known:]
        self._accepted_hash.update(new)
        self.seen += len(audio.pcm) // SAMPLE_BYTES
        self.accepted = max(self.accepted, self.seen)
        return new

    def finish(self, samples: int) -> None:
        """The attempt says that it made `samples` in all.

        Raises:
            ReplayMismatch: it is not what was accepted.
        """
        if not samples == self.seen == self.accepted:
            raise ReplayMismatch(f"{self.accepted} samples accepted, but the replay ended after {samples}")

    def _compare(self) -> None:
        if self._accepted_hash.digest() != self._replay_hash.digest():
            raise ReplayMismatch(f"the replay differs within the first {self.accepted} samples")


class SegmentRun:
    """One segment on its way through a lane; iterate it for its samples and marks, once.

    Attributes:
        order: place in the queue, kept by a replay, so that it goes first.
        urgent: a listener lacks this segment next.
        done: how the task ended; None until it has ended well.
        strikes: deaths of a worker without progress on this task.
    """

    def __init__(self, task: Task, clip: Clip) -> None:
        self.task = task
        self.clip = clip
        self.order = 0
        self.urgent = False
        self.ended = False
        self.ledger = Ledger()
        self.strikes = 0
        self.done: Done | None = None
        self._next: SegmentRun | None = None
        self._error: DiaServerError | None = None
        self._best_attempt: int | None = None
        self._items: asyncio.Queue[bytes | Marks | DiaServerError | None] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def value(self) -> Any:
        """What came of the task besides samples."""
        return None if self.done is None else self.done.value

    def precede(self, run: SegmentRun) -> None:
        """Queue `run` with what this one leaves, once it has ended well; else it ends as this one does."""
        self._next = run
        if self.ended:
            self._hand_on()

    def start_deadline(self, seconds: float, error: DiaServerError) -> None:
        """End the run with `error` unless it has ended by then; the first deadline counts."""
        self._timer = self._timer or asyncio.get_running_loop().call_later(seconds, self._expire, error)

    def accept(self, event: Audio | Marks) -> None:
        """Pass new samples and marks on to the listener."""
        if isinstance(event, Marks):
            if self.ledger.accept_marks():
                self._items.put_nowait(event)
        elif new := self.ledger.accept(event):
            self._items.put_nowait(new)

    def complete(self, done: Done) -> None:
        """All samples are there."""
        self.ledger.finish(done.samples)
        self.done = done
        self._end(None)

    def fail(self, error: DiaServerError) -> None:
        """Break the run off."""
        self._end(error)

    def count_death(self) -> None:
        """Its worker died: a strike if that attempt got no further than an earlier one."""
        if self._best_attempt is not None and self.ledger.seen <= self._best_attempt:
            self.strikes += 1
        self._best_attempt = max(self._best_attempt or 0, self.ledger.seen)
        self.ledger.restart()

    def __aiter__(self) -> AsyncIterator[bytes | Marks]:
        return self._heard()

    async def _heard(self) -> AsyncIterator[bytes | Marks]:
        """Mono float32 little-endian samples as they come, and marks ahead of the samples that they tell of.

        Raises:
            DiaServerError: the run failed; what was yielded before is valid but not all.
        """
        self.clip.lane.promote(self)
        while (item := await self._items.get()) is not None:
            if isinstance(item, DiaServerError):
                raise item
            yield item

    def abandon(self) -> None:
        """Nobody waits for this run any more."""
        self._end(None)

    def _expire(self, error: DiaServerError) -> None:
        self.fail(error)
        self.clip.lane.withdraw(self)

    def _end(self, last: DiaServerError | None) -> None:
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._items.put_nowait(last)
        self._error = last
        self._hand_on()

    def _hand_on(self) -> None:
        run = self._next
        if run is None or run.ended:
            return
        if self.done is None:
            run._end(self._error)  # noqa: SLF001
            return
        run.task = msgspec.structs.replace(run.task, carry=self.done.carry)
        self.clip.lane.submit(run)


class Clip:
    """All runs of one listener: they share a fingerprint and end together. Use as a context manager.

    Attributes:
        background: nobody listens, so that it comes behind all others, and may take any time.
        fingerprint: of the workers that speak it, known from the first samples on.
        waiting: nothing of it has reached a worker yet.
    """

    def __init__(self, lane: Lane, closed: Callable[[Clip], None], *, background: bool = False) -> None:
        """`closed` is called when the clip is."""
        self.lane = lane
        self.background = background
        self.fingerprint: str | None = None
        self.waiting = True
        self._closed = closed
        self._runs: list[SegmentRun] = []
        self._last: SegmentRun | None = None

    def run(self, task: Task, *, urgent: bool = False) -> SegmentRun:
        """Queue a task, as read-ahead unless it is urgent; iterating the run makes it urgent.

        One that is chained is queued when the run before it has ended.
        """
        run = SegmentRun(task, self)
        before = self._last if isinstance(task, Speak) and task.is_chained else None
        self._last = run
        # What has ended well holds no slot, and may hold much else.
        self._runs = [*(each for each in self._runs if each.done is None), run]
        if urgent:
            self.lane.promote(run)
        if before is None:
            self.lane.submit(run)
        else:
            before.precede(run)
        return run

    def fail(self, error: DiaServerError) -> None:
        """Break off what has not ended yet."""
        for run in self._runs:
            run.fail(error)

    def withdraw(self) -> None:
        """End all runs and give their slots back."""
        for run in self._runs:
            self.lane.withdraw(run)
        self._runs.clear()

    def close(self) -> None:
        """Withdraw, and be no clip of the pool any more; may be called again."""
        self.withdraw()
        self._closed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
