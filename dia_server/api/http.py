"""Generated answers: their headers, their end when the listener leaves, and their break when the clip fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import structlog
from litestar import Request
from litestar.types import ASGIApp, Receive, Scope, Send

from dia_server import metrics
from dia_server.audio.encode import FORMATS
from dia_server.errors import ClientLeft, DiaServerError
from dia_server.services.account import Account
from dia_server.services.plan import Plan, SpeechRequest
from dia_server.services.planner import Planner
from dia_server.services.speech import Speech
from dia_server.settings import Settings

PIECE_BYTES = 262_144

Answer = TypeVar("Answer")

log = structlog.get_logger(__name__)


class StreamedAnswer:
    """An ASGI answer of generated chunks.

    The headers go out with the first chunk, so that whatever fails before it has its own status. A failure later cuts
    the connection: a clean end would make half a clip look whole. The generator is closed in every case.
    HTTP/1.0 has no chunks, so its clients get the clip when it is done.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        headers: Callable[[], dict[str, str]],
        *,
        whole: bool,
        is_clip: bool = True,
    ) -> None:
        """`headers` is called when the first chunk is there; `whole` says that there is but one."""
        self._is_clip = is_clip
        self._chunks = chunks
        self._headers = headers
        self._whole = whole
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome: Literal["completed", "aborted", "failed"] = "aborted"
        if scope["http_version"] == "1.0" and not self._whole:
            self._chunks, self._whole = _joined(self._chunks), True
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_client_leaves(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                outcome = "failed" if sending.exception() else "completed"
                sending.result()
        except DiaServerError as error:
            if not self._started:
                raise
            log.error("stream broken", reason=error.message, code=error.code)
        except Exception:
            if not self._started:
                raise
            log.exception("stream broken")
        finally:
            sending.cancel()
            leaving.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._chunks.aclose()
            if self._is_clip:
                metrics.STREAMS.labels(outcome).inc()
            scope["state"]["log"]["outcome"] = outcome

    async def _send(self, send: Send) -> None:
        async for chunk in self._chunks:
            if not self._started:
                await self._start(send, len(chunk))
            # In pieces, so that the clip counts as open until its reader has most of it.
            for start in range(0, len(chunk), PIECE_BYTES):
                await send(
                    {"type": "http.response.body", "body": chunk[start : start + PIECE_BYTES], "more_body": True}
                )
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send, length: int) -> None:
        headers = self._headers() | ({"Content-Length": str(length)} if self._whole else {})
        self._started = True
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
            }
        )


async def _joined(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        yield b"".join([chunk async for chunk in chunks])


async def while_connected(request: Request[Any, Any, Any], work: Coroutine[Any, Any, Answer]) -> Answer:
    """The result of some work on a request whose body has been read.

    Raises:
        ClientLeft: nobody waits for it any more; it was cancelled.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_leaves(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft("The client left before the answer was there")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _client_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def speak(
    request: Request[Any, Any, Any],
    wanted: SpeechRequest,
    *,
    planner: Planner,
    speech: Speech,
    settings: Settings,
    whole: bool,
) -> ASGIApp:
    """The audio answer to a request.

    Raises:
        DiaServerError: the request can't be served.
    """
    plan, account = await begin(request, wanted, planner, speech)
    kind = FORMATS[plan.format]

    def headers() -> dict[str, str]:
        fields = {
            "Content-Type": kind.content_type,
            "Content-Disposition": f"attachment; filename=speech.{kind.extension}",
            **headers_of(plan, request, settings),
        }
        if whole:
            fields["X-Audio-Duration"] = f"{account.seconds:.3f}"
        return fields

    chunks = speech.whole(plan, account) if whole else speech.stream(plan, account)
    return StreamedAnswer(chunks, headers, whole=whole)


async def begin(
    request: Request[Any, Any, Any], wanted: SpeechRequest, planner: Planner, speech: Speech
) -> tuple[Plan, Account]:
    """The plan of a request and its account, which the request's log line will show.

    Raises:
        DiaServerError: the request can't be served.
    """
    speech.check_room()
    plan = await planner.plan(wanted)
    account = Account(id=request.scope["state"]["generation_id"])
    fields = request.scope["state"]["log"]
    fields |= {"model": plan.model, "voice": plan.voice, "seed": plan.seed, "account": account}
    if wanted.instructions:
        fields["understood"] = plan.understood
    return plan, account


def headers_of(plan: Plan, request: Request[Any, Any, Any], settings: Settings) -> dict[str, str]:
    """What an answer's headers say about its plan, whatever its body is."""
    fields = {"X-Seed": str(plan.seed), "X-Model": plan.model}
    if plan.unused:
        fields["X-Unused-Parameters"] = ", ".join(plan.unused)
    if plan.warning:
        fields["Warning"] = f'299 dia-server "{plan.warning}"'
    if settings.debug_mode:
        fields["X-Generation-ID"] = request.scope["state"]["generation_id"]
    return fields
