"""From a plan to audio: segments spoken ahead within a window, joined in order, and encoded as they come."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from time import monotonic

import structlog

from dia_server import metrics
from dia_server.audio.encode import FORMATS
from dia_server.audio.pipeline import ClipRenderer
from dia_server.errors import BadInput, DiaServerError, GenerationFailed, NothingToSpeak
from dia_server.models import registry
from dia_server.pool.clip import Clip, SegmentRun
from dia_server.pool.pool import Pool
from dia_server.script.dialogue import Pause
from dia_server.services.account import Account, TimedWord
from dia_server.services.history import History
from dia_server.services.plan import Plan
from dia_server.settings import Settings
from dia_server.tasks import SAMPLE_BYTES, Marks

log = structlog.get_logger(__name__)


class Speech:
    """The speech service: streams plans."""

    def __init__(self, settings: Settings, pool: Pool, history: History | None = None) -> None:
        """`history` gets every clip that was made whole."""
        self._settings = settings
        self._history = history
        self._pool = pool
        self._encoders = ThreadPoolExecutor(settings.encoder_threads, thread_name_prefix="encoder")

    def close(self) -> None:
        """Give the encoder threads back."""
        self._encoders.shutdown(wait=False, cancel_futures=True)

    def check_room(self, *, background: bool = False) -> None:
        """Whether a clip may be asked for, to be known before any work is done for it.

        Raises:
            Draining, QueueFull: no work is taken now; listeners' queue doesn't matter to what goes on behind them.
        """
        if background:
            self._pool.check_drain()
        else:
            self._pool.check_room()

    async def whole(self, plan: Plan, account: Account) -> AsyncGenerator[bytes, None]:
        """The encoded clip in one piece, with its exact size in the header where the format has one; see `stream`."""
        # Open until it is read: what nobody reads takes memory.
        with self._pool.open(plan.model) as clip:
            async with aclosing(self._noted(plan, account, clip)) as stream:
                pieces = [piece async for piece in stream]
            data = b"".join(pieces)
            pieces.clear()
            yield FORMATS[plan.format].whole(data)

    async def stream(self, plan: Plan, account: Account) -> AsyncGenerator[bytes, None]:
        """The encoded clip, piece by piece. Closing the generator ends all work on the clip.

        Raises:
            DiaServerError: before the first piece, the clip can't be made; later, what was yielded is not all of it.
        """
        with self._pool.open(plan.model) as clip:
            async with aclosing(self._noted(plan, account, clip)) as stream:
                async for piece in stream:
                    yield piece

    async def behind(self, plan: Plan, account: Account) -> AsyncGenerator[bytes, None]:
        """As `stream`, behind all listeners; it is for the caller to note the clip."""
        with self._pool.open(plan.model, background=True) as clip:
            async with aclosing(self._encoded(plan, account, clip)) as stream:
                async for piece in stream:
                    yield piece

    async def _noted(self, plan: Plan, account: Account, clip: Clip) -> AsyncGenerator[bytes, None]:
        """The encoded clip; once it is whole, the log of clips has it, unless it has no id, as a preview."""
        started = monotonic()
        history = self._history if account.id else None
        kept: list[bytes] | None = [] if history is not None and history.saves else None
        async with aclosing(self._encoded(plan, account, clip)) as stream:
            async for piece in stream:
                if kept is not None:
                    kept.append(piece)
                yield piece
        if history is not None:
            audio = None if kept is None else FORMATS[plan.format].whole(b"".join(kept))
            await history.add(plan, account, monotonic() - started, audio)

    async def _encoded(self, plan: Plan, account: Account, clip: Clip) -> AsyncGenerator[bytes, None]:
        started, longest = monotonic(), self._settings.max_audio_seconds
        renderer = ClipRenderer(plan.sample_rate, plan.tempo, plan.format)
        async for pcm in self._wanted_samples(plan, account, clip):
            data = await self._render(renderer, renderer.feed, pcm)
            if renderer.seconds > longest:
                raise BadInput(
                    f"The clip is longer than {longest:g} s; send the text in parts, or raise max_audio_seconds"
                )
            if data:
                self._note(account, renderer, clip, started)
                yield data
        if not renderer.seconds:
            raise _no_sound(plan, account)
        last = await self._render(renderer, renderer.finish)
        self._note(account, renderer, clip, started)
        metrics.AUDIO_SECONDS.labels(plan.model).inc(account.seconds)
        metrics.REAL_TIME_FACTOR.labels(plan.model).observe((monotonic() - started) / account.seconds)
        yield last

    async def _render(self, renderer: ClipRenderer, call: Callable[..., bytes], *arguments: bytes) -> bytes:
        if renderer.light:
            return call(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._encoders, call, *arguments)

    def _note(self, account: Account, renderer: ClipRenderer, clip: Clip, started: float) -> None:
        if account.first_audio_seconds is None:
            account.first_audio_seconds = monotonic() - started
            if not clip.background:
                metrics.FIRST_AUDIO_SECONDS.observe(account.first_audio_seconds)
        account.seconds = renderer.seconds
        account.fingerprint = clip.fingerprint

    async def _wanted_samples(self, plan: Plan, account: Account, clip: Clip) -> AsyncGenerator[bytes, None]:
        """The samples up to the plan's most; the workers stop there."""
        left = math.inf if plan.most_samples is None else plan.most_samples
        async with aclosing(self._samples(plan, account, clip)) as samples:
            async for pcm in samples:
                count = len(pcm) // SAMPLE_BYTES
                if count >= left:
                    clip.withdraw()
                    yield pcm[: int(left) * SAMPLE_BYTES]
                    return
                left -= count
                yield pcm

    async def _samples(self, plan: Plan, account: Account, clip: Clip) -> AsyncGenerator[bytes, None]:
        """The plan's items in order, never more than the window of `read_ahead` beyond the one being heard."""
        window: deque[SegmentRun | Pause] = deque()
        coming = self._start_items(plan, clip)
        position = silence = 0
        while True:
            while len(window) <= self._settings.read_ahead and (item := next(coming, None)) is not None:
                window.append(item)
            if not window:
                break
            current = window.popleft()
            if isinstance(current, Pause):
                # Silence waits for the speech behind it: a clip that fails at once must not have begun.
                silence += round(current.seconds * plan.sample_rate)
                continue
            first = position + silence
            async for heard in current:
                if isinstance(heard, Marks):
                    account.words.extend(_timed(heard, first, plan))
                    continue
                yield bytes(silence * SAMPLE_BYTES) + heard
                position += silence + len(heard) // SAMPLE_BYTES
                silence = 0
            account.segments += 1
            _tell(current, plan, account)
        if position and silence:
            yield bytes(silence * SAMPLE_BYTES)

    def _start_items(self, plan: Plan, clip: Clip) -> Iterator[SegmentRun | Pause]:
        for number, item in enumerate(plan.items):
            yield item if isinstance(item, Pause) else clip.run(item, urgent=number == 0)


def _no_sound(plan: Plan, account: Account) -> DiaServerError:
    """Why a clip has no sample: the text has nothing to say, or the model knows that it should have said something."""
    if not account.findings:
        return NothingToSpeak(f"Model '{plan.model}' found nothing to speak in the text")
    return GenerationFailed(
        f"Model '{plan.model}' said nothing, however often it began anew; another seed or a longer text may help"
    )


def _tell(run: SegmentRun, plan: Plan, account: Account) -> None:
    """Count and log what the model says of a segment."""
    if run.value:
        log.info("segment", **run.value, model=plan.model, seed=plan.seed, generation_id=account.id)
    findings = run.done.findings if run.done else ()
    if not findings:
        return
    account.findings += findings
    for finding in findings:
        metrics.FINDINGS.labels(plan.model, finding).inc()
    log.warning(
        "segment sounds wrong",
        findings=findings,
        segment=f"{account.segments} of {len(plan.tasks)}",
        model=plan.model,
        voice=plan.voice,
        seed=plan.seed,
        generation_id=account.id,
        advice=registry.manifest(plan.model).findings_advice,
    )


def _timed(marks: Marks, first_sample: int, plan: Plan) -> Iterator[TimedWord]:
    samples_per_second = plan.sample_rate * plan.tempo
    delay = FORMATS[plan.format].delay_seconds(plan.sample_rate)
    most = math.inf if plan.most_samples is None else plan.most_samples
    for word in marks.words:
        if first_sample + word.start >= most:
            return
        start, end = (min(first_sample + each, most) / samples_per_second + delay for each in (word.start, word.end))
        yield TimedWord(word.text, round(start, 3), round(end, 3))
